"""The programs that Chancery is measured against, each with a configuration of its own on free loopback ports.

A peer that is not on the machine is named in the report, and its ratio stays empty: peers are optional here.
"""

import json
import os
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from loadtest.process_cpu import tree_cpu_s
from loadtest.program import Program, find_program, free_port


def tls_trusting(roots: Path) -> ssl.SSLContext:
    """A client context that trusts these certificates and no others."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(str(roots))
    return context


def write_self_signed(directory: Path) -> tuple[Path, Path]:
    """A certificate and key for localhost, as Pebble's own HTTPS needs."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))])
    certificate = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
                   .serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(hours=1))
                   .not_valid_after(now + timedelta(days=2)).add_extension(names, critical=False)
                   .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
                   .sign(key, hashes.SHA256()))
    certificate_path, key_path = directory / "localhost.pem", directory / "localhost.key"
    certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                           serialization.NoEncryption()))
    return certificate_path, key_path


@dataclass(frozen=True, slots=True, kw_only=True)
class Pebble:
    """Pebble, and its companion that answers every DNS question with 127.0.0.1."""

    directory_url: str
    roots: Path
    http_01_port: int
    server: Program
    dns: Program

    @staticmethod
    def missing() -> str | None:
        """The name of the first program that is not there."""
        return next((name for name in ("pebble", "pebble-challtestsrv") if find_program(name) is None), None)

    @classmethod
    async def start(cls, work: Path, http_01_port: int) -> Self:
        """Raises ProgramFault. Pebble's deliberate delays, refused nonces and reused authorizations are off."""
        certificate, key = write_self_signed(work)
        port, management, dns_port = free_port(), free_port(), free_port()
        config = work / "pebble.json"
        config.write_text(json.dumps({"pebble": {
            "listenAddress": f"127.0.0.1:{port}", "managementListenAddress": f"127.0.0.1:{management}",
            "certificate": str(certificate), "privateKey": str(key), "httpPort": http_01_port,
            "tlsPort": free_port(), "ocspResponderURL": "", "externalAccountBindingRequired": False}}), "utf-8")
        dns = Program("pebble-challtestsrv", [
            str(find_program("pebble-challtestsrv")), "-defaultIPv6", "", "-defaultIPv4", "127.0.0.1",
            "-dns01", f"127.0.0.1:{dns_port}", "-http01", "", "-https01", "", "-tlsalpn01", "",
            "-management", f"127.0.0.1:{free_port()}"], work / "challtestsrv.log", environ=os.environ, quiet=True)
        environ = {**os.environ, "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0", "PEBBLE_AUTHZREUSE": "0"}
        server = Program("pebble", [str(find_program("pebble")), "-config", str(config),
                                    "-dnsserver", f"127.0.0.1:{dns_port}"],
                         work / "pebble.log", environ=environ, quiet=True)
        peer = cls(directory_url=f"https://localhost:{port}/dir", roots=certificate, http_01_port=http_01_port,
                   server=server, dns=dns)
        try:
            await dns.wait_for_port(dns_port)
            await server.wait_for_port(port)
        except BaseException:
            peer.stop()
            raise
        return peer

    def stop(self) -> None:
        """Ends both programs."""
        self.server.stop()
        self.dns.stop()


@dataclass(frozen=True, slots=True, kw_only=True)
class OpensslResponder:
    """openssl's own responder: it signs each answer when it is asked, with a P-256 key in memory."""

    url: str
    issuer: x509.Certificate
    serials: tuple[int, ...]
    server: Program

    @staticmethod
    def missing() -> str | None:
        """The name of the program when it is not there."""
        return None if find_program("openssl") else "openssl"

    @classmethod
    async def start(cls, work: Path, certificates: int) -> Self:
        """Raises ProgramFault. It knows this many good certificates, from the text file that `openssl ca` keeps."""
        certificate, key = write_self_signed(work)
        serials = tuple(range(1 << 140, (1 << 140) + certificates))
        index = work / "index.txt"
        index.write_text("".join(f"V\t301231235959Z\t\t{serial:036X}\tunknown\t/CN=x{serial:x}\n"
                                 for serial in serials), "ascii")
        port = free_port()
        server = Program("openssl", [
            str(find_program("openssl")), "ocsp", "-index", str(index), "-CA", str(certificate), "-rsigner",
            str(certificate), "-rkey", str(key), "-port", str(port), "-ignore_err", "-resp_no_certs"],
            work / "openssl.log", environ=os.environ)
        try:
            # Not by a connection: it would wait for a request on it, and serve nobody else.
            await server.wait_for_output("waiting for OCSP client connections")
        except BaseException:
            server.stop()
            raise
        return cls(url=f"http://127.0.0.1:{port}", server=server, serials=serials,
                   issuer=x509.load_pem_x509_certificate(certificate.read_bytes()))

    def cpu_s(self) -> float:
        """Processor seconds so far."""
        return sum(tree_cpu_s([self.server.pid]).values())

    def stop(self) -> None:
        """Ends it."""
        self.server.stop()


@dataclass(frozen=True, slots=True, kw_only=True)
class Nginx:
    """nginx with one worker that answers everything with one constant body from memory."""

    url: str
    server: Program

    @staticmethod
    def missing() -> str | None:
        """The name of the program when it is not there."""
        return None if find_program("nginx") else "nginx"

    @classmethod
    async def start(cls, work: Path, body_bytes: int) -> Self:
        """Raises ProgramFault."""
        port = free_port()
        for name in ("body", "proxy", "fastcgi", "uwsgi", "scgi"):
            (work / name).mkdir(exist_ok=True)
        config = work / "nginx.conf"
        config.write_text(f"""\
daemon off; worker_processes 1; pid {work}/nginx.pid; error_log {work}/nginx-error.log crit;
events {{ worker_connections 1024; }}
http {{
    access_log off; keepalive_requests 1000000000; keepalive_timeout 600s;
    client_body_temp_path {work}/body; proxy_temp_path {work}/proxy; fastcgi_temp_path {work}/fastcgi;
    uwsgi_temp_path {work}/uwsgi; scgi_temp_path {work}/scgi;
    server {{ listen 127.0.0.1:{port}; location / {{
        default_type application/ocsp-response; return 200 "{'x' * body_bytes}"; }} }}
}}
""", "ascii")
        binary = str(find_program("nginx"))
        server = Program("nginx", [binary, "-e", str(work / "nginx-error.log"), "-c", str(config)],
                         work / "nginx.log", environ=os.environ)
        try:
            await server.wait_for_port(port)
        except BaseException:
            server.stop()
            raise
        return cls(url=f"http://127.0.0.1:{port}", server=server)

    def cpu_s(self) -> float:
        """Processor seconds so far."""
        return sum(tree_cpu_s([self.server.pid]).values())

    def stop(self) -> None:
        """Ends it."""
        self.server.stop()
