"""The one certificate that the responder of the connection tests knows, the request for it, and its response."""

from cryptography.hazmat.primitives.asymmetric import ec

from ocsp.protocol.response import HashName, ResponseTemplate
from tests.ca.pki.authority import authority
from tests.ocsp.responder.serving import request_for
from tests.ocsp.signing import TIMES, serial_of, signed

OWN = authority(ec.generate_private_key(ec.SECP256R1()))
RECORD = signed(OWN, serial_of(1))
REQUEST = request_for(OWN, RECORD.serial)
BODY = ResponseTemplate(OWN.issuer, HashName.SHA1).response(RECORD.serial, RECORD.status, TIMES, RECORD.signatures[0])
