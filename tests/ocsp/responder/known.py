"""The one certificate that the responder of the connection tests knows, the request for it, and its response."""

from cryptography.hazmat.primitives.asymmetric import ec

from ocsp.protocol.response import HashName, ResponseTemplate
from tests.ca.pki.authority import authority
from tests.ocsp.responder.serving import request_for
from tests.ocsp.signing import TIMES, signed

OWN = authority(ec.generate_private_key(ec.SECP256R1()))
# In base64 the request for it has '++++' and '////' under either hash, and ends with '=': all that clients escape.
RECORD = signed(OWN, bytes.fromhex("0ae0 fbefbe ffffff 0000 fbefbe 0000000001"))
REQUEST = request_for(OWN, RECORD.serial)
BODY = ResponseTemplate(OWN.issuer, HashName.SHA1).response(RECORD.serial, RECORD.status, TIMES, RECORD.signatures[0])
