"""From files to an engine that is ready: reads, packs, places, warms up."""

import personaplex_cli.engine  # noqa: F401  it tells moshi how to be imported
