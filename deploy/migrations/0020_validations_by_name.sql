-- What was seen of a name (`chancery validation show NAME`), without reading every validation there is. The hash keeps
-- the index at a few bytes a row.
CREATE INDEX validations_name ON validations (hashtext(identifier_value));
