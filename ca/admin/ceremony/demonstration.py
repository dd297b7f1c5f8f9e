"""The ceremony of `chancery demo`: two SoftHSM tokens with random PINs, the packaged plan, no questions."""

from collections.abc import Callable
from pathlib import Path

import msgspec

from ca.admin.ceremony.act import run_ceremony
from ca.admin.ceremony.checks import CheckError
from ca.admin.ceremony.lint import LintError
from ca.admin.ceremony.outputs import OutputError
from ca.admin.ceremony.plan import PlanError, load_demo_plan
from ca.admin.ceremony.result import CeremonyResult
from ca.process.ambient import Ambient
from ca.process.lifecycle import StartupError
from ca.process.settings import HsmSettings
from hsm.errors import HsmError
from hsm.softhsm import default_module, initialise_softhsm_token

ROOT_TOKEN_LABEL = "chancery-root"  # noqa: S105 - a label
_PIN_BYTES = 16


def find_module(explicit: str = "") -> str:
    """The path of the PKCS#11 module, SoftHSM by default. Raises StartupError with what to install."""
    try:
        return default_module(explicit)
    except HsmError as fault:
        raise StartupError(str(fault)) from fault


def hold_demo_ceremony(
    *,
    data_dir: Path,
    online_hsm: HsmSettings,
    aia_base_url: str,
    crl_base_url: str,
    ambient: Ambient,
    progress: Callable[[str], None],
) -> CeremonyResult:
    """Makes `hsm/root`, the online token beside `online_hsm.conf`, `ceremony/`, `issuers/` and `roots.pem`.

    Synchronous, for one thread. Raises StartupError with one line.
    """
    if online_hsm.conf is None or online_hsm.pin_file != online_hsm.conf.parent / "pin":
        raise StartupError("the demo makes its online token with the configuration and the PIN in one directory")
    try:
        progress("making two SoftHSM tokens")
        online = initialise_softhsm_token(online_hsm.conf.parent, online_hsm.token_label, _pin(ambient))
        root = initialise_softhsm_token(data_dir / "hsm" / "root", ROOT_TOKEN_LABEL, _pin(ambient))
        result = run_ceremony(
            load_demo_plan(aia_base_url=aia_base_url, crl_base_url=crl_base_url),
            out_dir=data_dir / "ceremony", ambient=ambient, progress=progress,
            root_hsm=HsmSettings(module=online_hsm.module, conf=root.conf, token_label=root.label,
                                 pin_file=root.pin_file),
            online_hsm=msgspec.structs.replace(online_hsm, conf=online.conf))
    except (HsmError, PlanError, LintError, CheckError, OutputError, OSError) as fault:
        raise StartupError(f"the ceremony failed: {fault}") from fault
    issuers = data_dir / "issuers"
    issuers.mkdir(exist_ok=True)
    for each in (*result.cross_signs, *result.intermediates):
        (issuers / f"{each.slug}.pem").write_text(each.pem, "ascii")
    (data_dir / "roots.pem").write_text(result.roots_pem, "ascii")
    return result


def _pin(ambient: Ambient) -> str:
    return ambient.random_bytes(_PIN_BYTES).hex()
