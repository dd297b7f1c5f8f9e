"""The diagrams of RFC 8555 7.1.6 as edges: what a status may become in one event."""

# "expired" of a pending authorization is ours: the RFC leaves open what becomes of one that nobody answers, and we show
# it as gone (rows AZ2, AZ4, AZ5).
AUTHORIZATION_EDGES = {
    ("pending", "valid"), ("pending", "invalid"), ("pending", "deactivated"), ("pending", "expired"),
    ("valid", "expired"), ("valid", "deactivated"),
    # A deactivation of what is already over is refused by decide_update, but an account may be closed at any time.
    ("invalid", "deactivated"), ("expired", "deactivated"),
}
ORDER_EDGES = {
    ("pending", "ready"), ("pending", "invalid"), ("ready", "processing"), ("ready", "invalid"),
    ("processing", "valid"), ("processing", "invalid"),
}
CHALLENGE_EDGES = {
    ("pending", "processing"), ("processing", "valid"), ("processing", "invalid"), ("pending", "valid"),
    ("pending", "invalid"), ("processing", "pending"),
}
ACCOUNT_EDGES = {("valid", "deactivated"), ("valid", "revoked")}


def closure(edges: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """What may be seen between two looks: any path, and no change."""
    found = set(edges) | {(state, state) for edge in edges for state in edge}
    while True:
        more = {(a, d) for a, b in found for c, d in found if b == c} - found
        if not more:
            return found
        found |= more
