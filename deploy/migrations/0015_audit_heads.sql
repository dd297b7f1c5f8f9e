-- The last lines of the audit logs, every few minutes: a log that was cut off or written anew does not contain them. The
-- logs themselves are files of the processes that sign (ca/process/audit_log.py). Rows can only be added, by a function
-- that lets a chain go on and never back.

CREATE TABLE audit_heads (
    chain       text NOT NULL,
    number      bigint NOT NULL,
    digest      bytea NOT NULL,             -- SHA-256 of line `number`
    anchored_at timestamptz NOT NULL,
    PRIMARY KEY (chain, number)
);

CREATE FUNCTION anchor_audit_head(head_chain text, head_number bigint, head_digest bytea) RETURNS boolean
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    INSERT INTO audit_heads (chain, number, digest, anchored_at)
    SELECT head_chain, head_number, head_digest, now()
    WHERE NOT EXISTS (SELECT FROM audit_heads WHERE chain = head_chain AND number >= head_number)
    RETURNING true
$$;

REVOKE ALL ON FUNCTION anchor_audit_head(text, bigint, bytea) FROM PUBLIC;
