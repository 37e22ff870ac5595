"""Splunk's HTTP Event Collector with indexer acknowledgement.

What it has taken is in memory until it is indexed, `index_delay` later: killed before, it has lost
what it answered with success. As Splunk does, it tells of each acknowledgement once.
"""

import json
import threading
import urllib.parse
import uuid

import receiving

lock = threading.Lock()
channels = {}


class Splunk(receiving.Handler):
    def received(self, body):
        if self.headers["authorization"] != "Splunk " + self.options["token"]:
            return 403, {"text": "Invalid token", "code": 4}
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        channel = query.get("channel") or self.headers["x-splunk-request-channel"]
        if not channel:
            return 400, {"text": "Data channel is missing", "code": 10}
        uuid.UUID(channel)
        if url.path == "/services/collector/ack":
            return self.acknowledged(channel, json.loads(body)["acks"])
        if url.path == "/services/collector/event":
            return self.taken(channel, body.decode())
        return 404, {"text": "The requested URL was not found on this server.", "code": 404}

    def taken(self, channel, text):
        events = []
        decoder = json.JSONDecoder()
        at = 0
        text = text.rstrip()
        while at < len(text):
            event, at = decoder.raw_decode(text, at)
            while at < len(text) and text[at].isspace():
                at += 1
            events.append(event)
        index = self.options.get("index")
        for place, event in enumerate(events):
            assert event["source"] == "agentguard" and event["sourcetype"] == "agentguard:ocsf"
            assert round(event["time"] * 1000) == event["event"]["time"], event["time"]
            if event.get("index") != index:
                wrong = {"text": "Incorrect index", "code": 7, "invalid-event-number": place}
                return 400, wrong
            poison = self.options.get("poison")
            if poison and event["event"]["number"] in poison:
                invalid = {"text": "Invalid data format", "code": 6, "invalid-event-number": place}
                return 400, invalid
        events = [json.dumps(event["event"]) for event in events]
        if not self.options.get("acknowledge", True):
            self.output.append(events)
            return 200, {"text": "Success", "code": 0}
        with lock:
            acks = channels.setdefault(channel, {"next": 0, "indexed": set()})
            number = acks["next"]
            acks["next"] += 1
        cls = type(self)
        cls.batch = getattr(cls, "batch", 0) + 1
        if cls.batch != self.options.get("lose_batch"):
            timer = threading.Timer(
                self.options.get("index_delay", 0), self.index, (acks, number, events)
            )
            timer.daemon = True
            timer.start()
        return 200, {"text": "Success", "code": 0, "ackId": number}

    def index(self, acks, number, events):
        self.output.append(events)
        with lock:
            acks["indexed"].add(number)

    def acknowledged(self, channel, numbers):
        if not self.options.get("acknowledge", True):
            return 400, {"text": "ACK is disabled", "code": 14}
        with lock:
            indexed = channels.get(channel, {"indexed": set()})["indexed"]
            answer = {str(number): number in indexed for number in numbers}
            indexed.difference_update(numbers)
        return 200, {"acks": answer}


receiving.serve(Splunk)
