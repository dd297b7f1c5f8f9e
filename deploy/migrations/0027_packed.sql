-- Evidence of validations and signed finalize requests are stored packed (ca/pki/packed.py), because every certificate
-- has one of each. What was stored before is kept as it is, behind an octet 0 that says so.

ALTER TABLE validations
    ALTER COLUMN evidence TYPE bytea USING '\x00'::bytea || convert_to(evidence::text, 'UTF8');

-- The lengths of key, protected header and payload, these three, and the signature in base64url.
ALTER TABLE finalizations
    ALTER COLUMN jws_signature TYPE bytea USING '\x00'::bytea
        || convert_to(format('%s,%s,%s:%s', octet_length(jwk), octet_length(jws_protected), octet_length(jws_payload), jwk),
                      'UTF8')
        || jws_protected || jws_payload
        || convert_to(translate(encode(jws_signature, 'base64'), E'+/=\n', '-_'), 'UTF8');
ALTER TABLE finalizations
    DROP COLUMN jwk,
    DROP COLUMN jws_protected,
    DROP COLUMN jws_payload;
ALTER TABLE finalizations RENAME COLUMN jws_signature TO request;
