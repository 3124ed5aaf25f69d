"""Whether the server of this container answers, with TLS or without: exit code 0 if it does."""

import os
import ssl
import sys
from contextlib import suppress
from urllib.request import urlopen

PORT = os.environ.get("PERSONAPLEX_PORT", "8998")
SECONDS = 2.0  # for each way

anyone = ssl.create_default_context()  # the certificate is for the outside, not for this address
anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
for scheme in ("http", "https"):
    with suppress(OSError), urlopen(f"{scheme}://127.0.0.1:{PORT}/livez", timeout=SECONDS, context=anyone):
        sys.exit(0)
sys.exit(1)
