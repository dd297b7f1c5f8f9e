"""The CA's rules and vocabulary, pure: no await, clock, randomness, SQL or socket.

names           identifier, special_addresses, name_scope   refusing        refusal
requests        csr, public_key                        issuing rules   domain_control, validity, profile
what is signed  tbs, crl, ca_certificate, ocsp_responder (with der); checking it: lint (lint_shape,
                lint_dispatch: how pkilint is asked; lint_rules: our own), lint_ocsp
transparency    sct, precertificate, ct_log_list, ct_policy
numbers         serial, object_id                      revoking        revocation, key_loss
stored small    packed
"""
