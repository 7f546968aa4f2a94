"""How destinations are believed to be who they say they are."""

from __future__ import annotations

import ssl

from postroad.errors import Misconfigured


def tls_context(ca_file: str | None = None) -> ssl.SSLContext:
    """A context that verifies certificates and host names, with TLS 1.2 or newer and HTTP/1.1 only.

    The same for every tenant and destination, and under every version of Python. Trusts the system's authorities, or
    those of SSL_CERT_FILE and SSL_CERT_DIR, and those in `ca_file` beside them. Raises Misconfigured if that file
    cannot be used.
    """
    # Not by create_default_context: that one writes session keys to the file that SSLKEYLOGFILE names.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_default_certs()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Compression tells secrets by their length, and a peer could ask for a new handshake again and again.
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    if ca_file is not None:
        try:
            context.load_verify_locations(cafile=ca_file)
        except OSError as error:  # ssl.SSLError is one
            raise Misconfigured(f"the CA file {ca_file} cannot be used: {error.strerror or error}") from error
    return context


def tls_reason(error: OSError) -> str:
    """What went wrong in a handshake, as one sentence."""
    match error:
        case ssl.SSLCertVerificationError():
            return f"TLS error: certificate verify failed: {error.verify_message}"
        case ssl.SSLError():
            return f"TLS error: {(error.reason or str(error)).replace('_', ' ').lower()}"
        case _:
            return "TLS error: connection closed during the handshake"
