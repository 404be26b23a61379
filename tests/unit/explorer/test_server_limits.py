"""What clients that are silent, slow or many do to the others: nothing."""

import http.client
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from clipaudit.explorer import search_routes, server, server_limits
from tests.make_audits import audited


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return audited(tmp_path_factory.mktemp("served"), shards=1)


@contextmanager
def served(run):
    """Port of a real server over the run, in a thread."""
    listener = socket.create_server(("127.0.0.1", 0))
    own = server.make_server(server.create_app(run.directory.url, device="cpu"))
    thread = threading.Thread(target=own.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        own.should_exit = own.force_exit = True
        thread.join(300)
        listener.close()


def ask(port, method="GET", path="/health", body=None):
    """(status, JSON) of one request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        headers = {} if body is None else {"content-type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def closed_by_the_server(connection, seconds=20):
    connection.settimeout(seconds)
    try:
        return connection.recv(1000)
    except ConnectionResetError:
        return b""


def test_silent_connections_shut_nobody_out(run, monkeypatch):
    monkeypatch.setattr(server_limits, "MAX_CONNECTIONS", 8)
    with served(run) as port:
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(40)]
        assert [ask(port)[0] for _ in range(5)] == [200] * 5
        assert closed_by_the_server(silent[0]) == b"", "the oldest made room"
        for connection in silent:
            connection.close()


def test_a_connection_that_sends_no_whole_request_is_closed(run, monkeypatch):
    monkeypatch.setattr(server_limits, "HEAD_SECONDS", 0.3)
    with served(run) as port:
        silent = socket.create_connection(("127.0.0.1", port))
        trickling = socket.create_connection(("127.0.0.1", port))
        trickling.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ")
        assert closed_by_the_server(silent) == b""
        assert closed_by_the_server(trickling) == b""
        for connection in (silent, trickling):
            connection.close()


def test_a_body_that_does_not_arrive_is_answered_and_the_connection_closed(run, monkeypatch):
    monkeypatch.setattr(server_limits, "BODY_SECONDS", 0.3)
    head = b"POST /search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    with served(run) as port, socket.create_connection(("127.0.0.1", port)) as slow:
        slow.sendall(head + b"{")
        assert b" 408 " in closed_by_the_server(slow)
        assert ask(port)[0] == 200


def test_a_flood_is_told_to_come_back_and_the_others_are_answered(run, monkeypatch):
    monkeypatch.setattr(server_limits, "COMPUTING", 1)
    monkeypatch.setattr(server_limits, "WAITING", 3)
    monkeypatch.setattr(server_limits, "TURN_SECONDS", 600)
    begun, go_on, real = threading.Semaphore(0), threading.Event(), search_routes.answers

    def slow(*given):
        begun.release()
        go_on.wait(60)
        return real(*given)

    monkeypatch.setattr(search_routes, "answers", slow)
    asked = {"key": "0/p0_0003", "k": 2}
    with served(run) as port, ThreadPoolExecutor(12) as clients:
        flood = [clients.submit(ask, port, "POST", "/search", asked) for _ in range(12)]
        assert begun.acquire(timeout=60)
        assert ask(port)[0] == 200, "what computes nothing waits for nobody"
        deadline = time.monotonic() + 60
        while sum(each.done() for each in flood) < 8:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        refused = [each.result() for each in flood if each.done()]
        assert {status for status, _ in refused} == {429}
        assert "ask again later" in refused[0][1]["error"]
        go_on.set()
        assert sorted(each.result()[0] for each in flood) == [200] * 4 + [429] * 8
        assert ask(port, "POST", "/search", asked)[0] == 200


def test_a_turn_that_does_not_come_is_a_503(run, monkeypatch):
    monkeypatch.setattr(server_limits, "COMPUTING", 1)
    monkeypatch.setattr(server_limits, "TURN_SECONDS", 0.2)
    begun, go_on, real = threading.Event(), threading.Event(), search_routes.answers

    def slow(*given):
        begun.set()
        go_on.wait(60)
        return real(*given)

    monkeypatch.setattr(search_routes, "answers", slow)
    asked = {"key": "0/p0_0003", "k": 2}
    with served(run) as port, ThreadPoolExecutor(1) as clients:
        first = clients.submit(ask, port, "POST", "/search", asked)
        assert begun.wait(60)
        status, answer = ask(port, "POST", "/search", asked)
        go_on.set()
        assert (status, first.result()[0]) == (503, 200)
        assert "busy" in answer["error"]
