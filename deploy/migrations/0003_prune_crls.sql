-- A CRL is made for every shard every few hours, so the table grows without end, and no role may delete from it.
-- Relying parties and compliance checks ask for the recent ones: of every (issuer, shard) the newest five stay for
-- ever, whatever their age, and everything younger than keep_days does. The caller cannot ask for less than 30 days.

CREATE FUNCTION prune_crls(keep_days integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    pruned bigint;
BEGIN
    IF keep_days IS NULL OR keep_days < 30 THEN
        RAISE EXCEPTION 'CRLs are kept for at least 30 days, not %', keep_days USING ERRCODE = 'invalid_parameter_value';
    END IF;
    DELETE FROM crls USING (
        SELECT shown.issuer_id, shown.shard, fifth.number
        FROM (SELECT issuers.id AS issuer_id, generate_series(0, issuers.crl_shards - 1) AS shard FROM issuers) AS shown
        CROSS JOIN LATERAL (
            SELECT c.number FROM crls c WHERE c.issuer_id = shown.issuer_id AND c.shard = shown.shard
            ORDER BY c.number DESC OFFSET 4 LIMIT 1
        ) AS fifth
    ) AS kept
    WHERE crls.issuer_id = kept.issuer_id AND crls.shard = kept.shard AND crls.number < kept.number
        AND crls.this_update < now() - make_interval(days => keep_days);
    GET DIAGNOSTICS pruned = ROW_COUNT;
    RETURN pruned;
END
$$;

REVOKE ALL ON FUNCTION prune_crls(integer) FROM PUBLIC;
