"""The conversation over a network: Moshi's bytes, the server, the client. The only room that imports aiohttp."""
