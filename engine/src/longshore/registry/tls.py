"""TLS contexts for the hosts of a registry."""

import ssl

from longshore.errors import InvalidArgument
from longshore.registry.hosts import Tls


def context(tls: Tls, *, own: bool = True) -> ssl.SSLContext | bool:
    """For one host; True is the default, the system's authorities.

    Not `own`: for an address that the host redirects to. The host's authorities hold there too, but neither our
    certificate nor the permission to skip the check. Raises InvalidArgument for files that do not serve.
    """
    if tls == Tls():
        return True
    made = ssl.create_default_context()
    try:
        for path in tls.ca:
            made.load_verify_locations(path)
        for certificate, key in tls.client if own else ():
            made.load_cert_chain(certificate, key or None)
    except (OSError, ssl.SSLError) as cause:
        raise InvalidArgument(
            "cannot use the certificates of a registry", detail=f"{', '.join(tls.ca)}: {cause}"
        ) from cause
    if tls.skip_verify and own:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    return made
