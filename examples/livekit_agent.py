"""A LiveKit agent whose voice is this server. The GPT-Live protocol is full duplex: interruptions are the model's.

Needs livekit-agents and livekit-plugins-openai 1.8 or newer. `console` talks through the sound card, `dev` joins the
rooms of a LiveKit server, which LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET name. personaplex's own server is
at PERSONAPLEX_LIVE_URL (http://127.0.0.1:8998/v1 unless set); its token, if it wants one, in PERSONAPLEX_TOKEN.

personaplex serve --model demo
python examples/livekit_agent.py console
"""

import os

from livekit.agents import Agent, AgentServer, AgentSession, JobContext, cli
from livekit.plugins.openai.realtime import GPTLiveModel

SERVER = os.environ.get("PERSONAPLEX_LIVE_URL", "http://127.0.0.1:8998/v1")
PROMPT = "You are a wise and friendly teacher. Answer questions or provide advice in a clear and engaging way."

server = AgentServer()


def session(url: str = SERVER) -> AgentSession[None]:
    key = os.environ.get("PERSONAPLEX_TOKEN", "none")
    return AgentSession(llm=GPTLiveModel(base_url=url, api_key=key, voice="NATF2", delegation="client"))


@server.rtc_session()
async def talk(context: JobContext) -> None:
    await session().start(Agent(instructions=PROMPT), room=context.room)


if __name__ == "__main__":
    cli.run_app(server)
