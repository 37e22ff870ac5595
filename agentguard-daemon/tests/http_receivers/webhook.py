"""A webhook that trusts nothing: token, signature, clock and numbers are verified."""

import hashlib
import hmac
import json
import time
import uuid

import receiving

deliveries = set()


class Webhook(receiving.Handler):
    def received(self, body):
        problem = self.problem(body)
        if problem:
            return 400, {"error": problem}
        self.output.append(json.dumps(record) for record in json.loads(body))
        return 204 if self.options.get("no_content") else 200, b""

    def problem(self, body):
        if self.path != "/in?from=agentguard":
            return "path " + self.path
        if self.headers["content-type"] != "application/json":
            return "content-type"
        if self.headers["authorization"] != "Bearer " + self.options["token"]:
            return "authorization"
        time_part, signature_part = self.headers["x-agentguard-signature"].split(",")
        stamp = time_part.removeprefix("t=")
        if abs(time.time() - int(stamp)) > 60:
            return "time"
        signed = stamp.encode() + b"." + body
        wanted = hmac.new(self.options["key"].encode(), signed, hashlib.sha256)
        if not hmac.compare_digest("v1=" + wanted.hexdigest(), signature_part):
            return "signature"
        delivery = uuid.UUID(self.headers["x-agentguard-delivery"])
        if delivery in deliveries:
            return "delivery"
        deliveries.add(delivery)
        first = int(self.headers["x-agentguard-sequence-first"])
        last = int(self.headers["x-agentguard-sequence-last"])
        numbers = [record["number"] for record in json.loads(body)]
        if numbers != list(range(first, last + 1)):
            return "sequence"
        return None


receiving.serve(Webhook)
