-- Keys of published lists whose private halves everybody can have (Debian's generator of 2008 and others, BR 6.1.1.3).
-- A digest says nothing about the list that it is from: what is looked up are all the digests that a key may be listed by
-- (ca/pki/weak_list.py), each told from the others by its first octet.

CREATE TABLE weak_keys (
    digest bytea PRIMARY KEY,
    source text NOT NULL
);
