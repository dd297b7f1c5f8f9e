-- What linters have against certificates that were issued, by the rules of the day when they were looked at again.
-- Whoever looks again replaces what was found before about the same certificate. Not partitioned: rows are few, and of
-- certificates of any age, those that are older than this table included.

CREATE TABLE lint_findings (
    serial   bytea NOT NULL,
    code     text NOT NULL,             -- dotted, as the linters name it
    severity text NOT NULL,             -- FATAL, ERROR or WARNING
    detail   text NOT NULL,
    found_at timestamptz NOT NULL,
    PRIMARY KEY (serial, code)
);
CREATE INDEX lint_findings_code ON lint_findings (code text_pattern_ops);
