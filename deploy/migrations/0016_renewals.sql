-- RFC 9773: an order may name the certificate that it replaces. `replaces` is shown again as it is here: for one of ours,
-- the one spelling of its name. Whether it has been replaced follows from the certificates of the orders that name it.
ALTER TABLE orders
    ADD COLUMN replaces text,
    ADD COLUMN renews boolean NOT NULL DEFAULT false;   -- one of ours, of this account, whose renewal was due
CREATE INDEX orders_replaces ON orders (replaces) WHERE replaces IS NOT NULL;
