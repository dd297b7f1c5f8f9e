-- A short-lived certificate says nothing of OCSP, so it gets no response and waits for none (BR 7.1.2.7.7). What is in a
-- certificate stays as it was when it was signed, whatever its profile has become since.
ALTER TABLE certificates ADD COLUMN has_ocsp boolean NOT NULL DEFAULT true;
