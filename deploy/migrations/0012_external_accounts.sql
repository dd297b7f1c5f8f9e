-- External account binding (RFC 8555 7.3.4): credentials that an operator hands out, and the accounts made with them.
--
-- The HMAC key is a secret that the front end has to know to verify a binding. No other role may read it, not even the
-- one that wrote it: it is shown once, when it is made.

CREATE TABLE eab_credentials (
    kid           text PRIMARY KEY,
    mac_key       bytea NOT NULL,
    created_at    timestamptz NOT NULL,
    created_by    text NOT NULL,
    comment       text NOT NULL,
    single_use    boolean NOT NULL,
    expires_at    timestamptz,                  -- null: never
    allowed_names text[] NOT NULL,              -- names with all below them, and address prefixes; empty: any
    revoked_at    timestamptz
);

ALTER TABLE accounts
    ADD COLUMN eab_kid text,
    ADD COLUMN eab jsonb,                       -- the binding as it was sent, shown in the account object
    ADD COLUMN eab_single_use boolean;
CREATE INDEX accounts_eab_kid ON accounts (eab_kid) WHERE eab_kid IS NOT NULL;
-- Of two keys that use a single-use credential at the same moment, one gets the account.
CREATE UNIQUE INDEX accounts_eab_single_use ON accounts (eab_kid) WHERE eab_single_use;
