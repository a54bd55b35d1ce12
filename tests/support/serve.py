"""Serves engines to the tests from a process of its own: vLLM changes the process that it lives in.

Run as `python serve.py FD`: requests come and answers go through the connection with that file descriptor.
"""

from __future__ import annotations

import os
import pickle
import sys
from multiprocessing.connection import Connection


def serve(connection: Connection) -> None:
    engines = []
    while True:
        try:
            method, arguments, options = pickle.loads(connection.recv_bytes())
        except EOFError:  # the tests are over
            return
        try:
            if method == "open":
                spec, model, place = arguments
                engines.append(spec.open(model, place, **options))
                answer = len(engines) - 1
            else:
                engine = engines[arguments[0]]
                call = {"generate": engine.generate, "logps": engine.logps, "close": engine.close}[method]
                answer = call(*arguments[1:], **options)
            connection.send_bytes(pickle.dumps((True, answer)))
        except Exception as error:  # whatever it is, it belongs to the test that asked
            connection.send_bytes(pickle.dumps((False, error)))


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
    os._exit(0)  # vLLM would take its engines down one by one, which takes many seconds
