"""Whole ACME orders: newOrder, http-01, finalize, download; Chancery and Pebble in turn, round by round.

Pebble is started anew for each of its rounds. It looks through all stored authorizations at each newOrder, so it slows
down as it fills, and it can deadlock when orders overlap (FindValidAuthorization holds the store's lock while it waits
for an authorization's, others do it the other way round); a round that stalls counts until its last order, and the
report says so.
"""

from dataclasses import dataclass

from loadtest.acme_round import LOAD_GENERATOR, Round, Target, closed_round, open_accounts, paced_round, prepare_orders
from loadtest.peers import Pebble, tls_trusting
from loadtest.poll import PollPolicy
from loadtest.process_cpu import tree_cpu_s
from loadtest.program import ProgramFault
from loadtest.report import Breakdown, Row, median, percentile
from loadtest.session import Session, Steps
from loadtest.statements import statements_of_orders
from loadtest.targets import FINALIZE_P99_MS, ORDERS_AT_8_ACCOUNTS

_SCENARIO = "acme"
_TARGET_ACCOUNTS = 8
_FIRST_GUESS_PER_S = 250.0
_PACED_ACCOUNTS = 64
_WARM_UP_ORDERS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class AcmeOptions:
    """Sizes of the scenario."""

    accounts: tuple[int, ...]
    rounds: int
    seconds_s: float
    cpu: bool
    peer: bool
    polling: PollPolicy


async def run_acme(session: Session, options: AcmeOptions) -> None:
    """Measures and adds rows. Raises ProgramFault when Chancery cannot be started."""
    chancery = await session.chancery()
    ours = Target(name="Chancery", directory_url=chancery.directory_url, tls=tls_trusting(chancery.roots),
                  cpu_s=chancery.cpu_s)
    missing = Pebble.missing() if options.peer else "--no-peer was given"
    if missing is not None:
        session.report.note(f"acme: not measured against Pebble: {missing}"
                            + ("" if not options.peer else " is not on this machine"))
    with session.steps("acme", 1 + len(options.accounts) * options.rounds * (1 if missing else 2)) as steps:
        await _warm_up(session, ours, options)
        steps.done()
        levels: dict[int, list[Round]] = {}
        for accounts in options.accounts:
            mine, theirs = await _level(session, options, ours, accounts, pebble=missing is None, steps=steps)
            levels[accounts] = mine
            _report_level(session, accounts, mine, theirs, show_cpu=options.cpu)
    if _TARGET_ACCOUNTS in levels:
        await _half_load(session, ours, options, levels[_TARGET_ACCOUNTS])
    if options.cpu:
        await statements_of_orders(session, chancery, ours, options.polling)


async def _warm_up(session: Session, target: Target, options: AcmeOptions) -> None:
    """The first orders pay for caches and connections that all later ones share."""
    accounts = await open_accounts(target, 4, session.challenges, options.polling)
    found = await closed_round(target, accounts, prepare_orders(_WARM_UP_ORDERS), seconds_s=30.0)
    for account in accounts:
        account.close()
    if found.faults or found.stalled:
        raise ProgramFault(f"{target.name} does not issue: {dict(found.faults) or 'no answer'}")


async def _level(session: Session, options: AcmeOptions, ours: Target, accounts: int, *, pebble: bool,
                 steps: Steps) -> tuple[list[Round], list[Round]]:
    mine: list[Round] = []
    theirs: list[Round] = []
    for number in range(options.rounds):
        steps.now(f"acme: {accounts} accounts, round {number + 1} of {options.rounds}, Chancery")
        mine.append(await _one_round(session, options, ours, accounts, mine))
        steps.done()
        if pebble:
            steps.now(f"acme: {accounts} accounts, round {number + 1} of {options.rounds}, Pebble")
            theirs.append(await _pebble_round(session, options, accounts, theirs))
            steps.done()
    return mine, theirs


async def _one_round(session: Session, options: AcmeOptions, target: Target, accounts: int,
                     earlier: list[Round]) -> Round:
    guess_per_s = max([one.orders_per_s for one in earlier if not one.stalled], default=_FIRST_GUESS_PER_S)
    orders = prepare_orders(int(guess_per_s * options.seconds_s * 1.5) + accounts)
    clients = await open_accounts(target, accounts, session.challenges, options.polling)
    try:
        return await closed_round(target, clients, orders, seconds_s=options.seconds_s)
    finally:
        for client in clients:
            client.close()


async def _pebble_round(session: Session, options: AcmeOptions, accounts: int, earlier: list[Round]) -> Round:
    peer = await Pebble.start(session.peer_work(), session.challenges.port)
    try:
        target = Target(name="Pebble", directory_url=peer.directory_url, tls=tls_trusting(peer.roots),
                        cpu_s=lambda: tree_cpu_s([peer.server.pid, peer.dns.pid]))
        return await _one_round(session, options, target, accounts, earlier)
    finally:
        peer.stop()


def _report_level(session: Session, accounts: int, mine: list[Round], theirs: list[Round], *,
                  show_cpu: bool) -> None:
    session.report.details[f"acme {accounts} accounts"] = {
        "Chancery": [one.as_json() for one in mine], "Pebble": [one.as_json() for one in theirs]}
    for one in mine:
        if one.stalled:
            session.report.errors.append(f"acme, {accounts} accounts: Chancery stopped answering")
        session.report.errors += [f"acme, {accounts} accounts: {count} x {text}" for text, count in one.faults.items()]
    stalled = sum(one.stalled for one in theirs)
    if stalled:
        session.report.note(f"acme: Pebble deadlocked in {stalled} of {len(theirs)} rounds with {accounts} accounts")
    faulty = sum(one.faults.total() for one in theirs)
    if faulty:
        session.report.note(f"acme: {faulty} orders failed at Pebble with {accounts} accounts")
    figures = (("orders/s", "", 1.0, lambda one: one.orders_per_s),
               ("order p50", "ms", 1e3, lambda one: percentile(one.orders_s, 0.5)),
               ("order p99", "ms", 1e3, lambda one: percentile(one.orders_s, 0.99)),
               ("finalize to certificate p50", "ms", 1e3, lambda one: percentile(one.finalizations_s, 0.5)),
               ("finalize to certificate p99", "ms", 1e3, lambda one: percentile(one.finalizations_s, 0.99)))
    for name, unit, scale, figure in figures:
        counts = name == "orders/s"
        session.report.add(Row(
            scenario=_SCENARIO, figure=f"{name}, {_plural(accounts)}", unit=unit, peer="Pebble" if theirs else "",
            value=_scaled(median([figure(one) for one in mine]), scale),
            peer_value=_scaled(median([figure(one) for one in theirs]), scale),
            target=ORDERS_AT_8_ACCOUNTS if counts and accounts == _TARGET_ACCOUNTS else None))
    session.report.add(Row(
        scenario=_SCENARIO, figure=f"processor time of the servers an order, {_plural(accounts)}", unit="ms",
        value=_server_cpu_ms(mine), peer="Pebble" if theirs else "", peer_value=_server_cpu_ms(theirs)))
    _report_cpu(session, {"Chancery": mine, "Pebble": theirs}, accounts, show=show_cpu)


def _server_cpu_ms(rounds: list[Round]) -> float | None:
    """Everything but the load generator; None when it could not be seen."""
    counted = [one for one in rounds if not one.stalled]
    orders = sum(len(one.orders_s) for one in counted)
    spent_s = sum(seconds for one in counted for name, seconds in one.cpu_s.items() if name != LOAD_GENERATOR)
    return spent_s * 1e3 / orders if orders and spent_s else None


def _plural(accounts: int) -> str:
    return "1 account" if accounts == 1 else f"{accounts} accounts"


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else value * scale


def _report_cpu(session: Session, rounds: dict[str, list[Round]], accounts: int, *, show: bool) -> None:
    """Processor milliseconds an order by process, largest first: into the JSON file, and the table when asked for."""
    rows = []
    for name, mine in rounds.items():
        counted = [one for one in mine if not one.stalled]     # a server that waits for itself spends nothing
        orders = sum(len(one.orders_s) for one in counted)
        spent_ms = {process: sum(one.cpu_s.get(process, 0.0) for one in counted) * 1e3 / max(orders, 1)
                    for process in {process for one in counted for process in one.cpu_s}}
        ordered = sorted(spent_ms.items(), key=lambda one: -one[1])
        session.report.details[f"acme cpu ms/order, {accounts} accounts, {name}"] = {
            process: round(spent, 3) for process, spent in ordered}
        rows += [(name, process, f"{spent:.2f}") for process, spent in ordered if spent >= 0.005]
        rows += [(name, "all", f"{sum(spent_ms.values()):.2f}")] if ordered else []
    if show:
        session.report.breakdowns.append(Breakdown(title=f"Processor time of one order, {_plural(accounts)}", rows=rows,
                                                   headings=("server", "process", "ms")))


async def _half_load(session: Session, ours: Target, options: AcmeOptions, rounds: list[Round]) -> None:
    """Latency at half of what 8 accounts got through: nothing waits for another order there."""
    full_per_s = median([one.orders_per_s for one in rounds])
    if not full_per_s:
        return
    per_s = full_per_s / 2
    with session.steps(f"acme: latency at {per_s:.0f} orders/s", 1):
        accounts = await open_accounts(ours, _PACED_ACCOUNTS, session.challenges, options.polling)
        orders = prepare_orders(int(per_s * options.seconds_s) + 1)
        found = await paced_round(ours, accounts, orders, per_s=per_s, seconds_s=options.seconds_s)
    for account in accounts:
        account.close()
    session.report.details["acme half load"] = found.as_json()
    session.report.errors += [f"acme, half load: {count} x {text}" for text, count in found.faults.items()]
    if found.stalled:
        session.report.errors.append("acme, half load: Chancery stopped answering")
        return
    for share, target in ((0.5, None), (0.99, FINALIZE_P99_MS)):
        session.report.add(Row(
            scenario=_SCENARIO, figure=f"finalize to certificate p{share * 100:.0f}, half load", unit="ms",
            note=f"{per_s:.0f} orders/s", value=percentile(found.finalizations_s, share) * 1e3, target=target))
