"""After an interrupted ceremony: destroys the keys that it made in vain, and sets its directory aside."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from ca.admin.ceremony.errors import OutputError
from ca.admin.ceremony.outputs import leftover_of
from ca.process.settings import HsmSettings
from hsm.generate import destroy_key
from hsm.token import Token


def discard_unfinished(out_dir: Path, tokens: Mapping[str, HsmSettings], now: datetime) -> tuple[list[str], Path]:
    """Destroys the listed keys in the tokens "root" and "online"; returns what was done, and where the directory is.

    No certificate of these keys was released, so nothing is lost. A key is found by label *and* id: another key of that
    label is left alone. Raises OutputError when there is nothing to discard, HsmError from a token.
    """
    leftover = leftover_of(out_dir)
    if leftover is None:
        raise OutputError(f"{out_dir} has no interrupted ceremony")
    done = []
    for place, settings in tokens.items():
        keys = [key for key in leftover.keys if key.token == place]
        if not keys:
            continue
        with Token.open(module=settings.module, conf=settings.conf, token_label=settings.token_label,
                        pin_file=settings.pin_file, writable=True) as token:
            for key in keys:
                destroyed = destroy_key(token, label=key.label, key_id=bytes.fromhex(key.key_id))
                done.append(f"key {key.label!r} in the {place} token: "
                            + ("destroyed" if destroyed else "it had not been made"))
    aside = leftover.directory.with_name(f"{out_dir.name}.discarded-{now:%Y%m%dT%H%M%SZ}")
    leftover.directory.rename(aside)
    return done, aside
