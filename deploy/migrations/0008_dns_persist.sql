-- dns-persist-01: the domain's record names an account by its URL and stays, so it names no key. The link from the
-- account to the key that may finalize therefore begins with the key that the account was opened with: the VA copies
-- it into the validation, and the CA follows the signed key changes from there. Nobody can write it: the trigger takes
-- it from the row that opens the account, and no role has a grant on it, so a captured front end cannot give somebody
-- else's account a first key of its own.
ALTER TABLE accounts ADD COLUMN first_thumbprint bytea;
UPDATE accounts SET first_thumbprint = coalesce(
    (SELECT old_thumbprint FROM key_changes WHERE key_changes.account_id = accounts.id ORDER BY changed_at LIMIT 1),
    thumbprint);
ALTER TABLE accounts ALTER COLUMN first_thumbprint SET NOT NULL;

CREATE FUNCTION keep_first_thumbprint() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.first_thumbprint := NEW.thumbprint;
    RETURN NEW;
END
$$;
CREATE TRIGGER keep_first_thumbprint BEFORE INSERT ON accounts
    FOR EACH ROW EXECUTE FUNCTION keep_first_thumbprint();

-- The operator's permission for one account; profiles have theirs in the configuration.
ALTER TABLE accounts ADD COLUMN dns_persist_allowed_at timestamptz;
