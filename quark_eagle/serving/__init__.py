"""The engine as a process: start vLLM, wait until it serves, drive it, read what it counted, leave nothing running.

    Engine         which vLLM, and what it says of itself and its machine
    ServeCommand   what is served: target, draft, every flag and variable
    VllmServer     started, awaited, watched, stopped whatever happens
    Client         prompts in, answers and the rounds they were made of out
    Counters       what the server counted in all, to be reconciled with the answers
    ServerFacts    what it is really set to, by its log or by asking it

Knows neither drafts nor parity: it starts what it is told to, and says what the engine answered.
"""
