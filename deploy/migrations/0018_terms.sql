-- RFC 8555 7.3.3: when the terms of service have changed, an operator records who agreed to the new ones. What was agreed
-- when the account was made stays what the subscriber said then.
ALTER TABLE accounts ADD COLUMN terms_confirmed_at timestamptz;
