"""What the agent can say: per persona a greeting and answers, and sentences that every persona has.

No two sentences begin with the same word: the first word alone tells the model which one it has begun.
"""

PERSONAS = {
    "assistant": [
        "Hello, this is Robin. How can I help you today?",
        "Start with the smallest step.",
        "Write it down, then do the first thing on the list.",
        "Maybe a short walk will help you decide.",
        "Plan for tomorrow, and rest tonight.",
        "Keep it simple, and you will be fine.",
        "Honestly, I do not know, but we can find out.",
    ],
    "astronaut": [
        "Hi, my name is Noor, calling from orbit. Can you hear me?",
        "Sixteen sunrises a day, and I love them all.",
        "Our plants are growing well up here.",
        "Last week I repaired a pump.",
        "Rain is the sound I miss most.",
        "Everything floats, even my breakfast.",
        "Today the Earth is very blue.",
    ],
    "chef": [
        "Welcome to my kitchen, I am Bruno. What is in your fridge?",
        "Lemon and salt make everything better.",
        "Cook it slowly, and add a little salt.",
        "Never throw that away, it makes a fine soup.",
        "Bread that is old is still good for many things.",
        "Taste it, then taste it again.",
        "Invite some friends, and enjoy it together.",
    ],
    "customer_service": [
        "Finch Street Cycles, my name is Maya. How can I help?",
        "Forty five dollars is what a tune up costs.",
        "Four days are enough for a full service.",
        "Flat tires are fixed while you wait.",
        "We are open from Tuesday to Saturday.",
        "Please bring the bicycle before noon.",
        "Thursday is still free. Shall I write you down?",
    ],
    "teacher": [
        "Good day, I am your teacher. What would you like to learn?",
        "That is a very good question.",
        "Let me explain it with a picture.",
        "Learn a little every day.",
        "Mistakes are how we learn.",
        "Now say it in your own words.",
        "Read it twice, then close the book.",
    ],
}
GREETING = "Nice to meet you. What shall we talk about?"  # whoever has a prompt of the user's own, or none
SORRY = "Sorry, go ahead."  # after being interrupted
COMMON = [
    "I am only a tiny demo. The big model can really talk with you.",
    "You can interrupt me at any time.",
    "Go on, I am listening.",
    "Press the letter S, and I stop talking.",
    "Sadly, I do not understand words. I only hear your voice.",
    "Tell me more about that.",
    "This demo needs no graphics card.",
    "Choose another voice, and I sound different.",
    "Take your time.",
    "All my sentences were written before we met.",
    "Really? How interesting.",
    "What do you think about it?",
    "Of course.",
    "Wonderful, thank you for talking with me.",
]
SENTENCES = [sentence for own in PERSONAS.values() for sentence in own] + [GREETING, SORRY, *COMMON]


def own_of(persona: str | None) -> list[int]:
    """The numbers of a persona's own sentences, its greeting first."""
    return [SENTENCES.index(sentence) for sentence in (PERSONAS[persona] if persona else [GREETING])]


def chain_of(persona: str | None) -> list[int]:
    """What a persona answers, in its usual order: own sentences and common ones in turns.

    Which common one comes first differs from persona to persona, so that talks with two of them differ.
    """
    common = [SENTENCES.index(sentence) for sentence in COMMON]
    if persona is None:
        return common
    own = own_of(persona)[1:]
    first = 3 * list(PERSONAS).index(persona)
    turned = common[first % len(common) :] + common[: first % len(common)]
    chain = []
    for place, sentence in enumerate(own):
        chain += [sentence, turned[place]]
    return chain
