"""An OpenTelemetry collector, made of the official messages: over HTTP, or gRPC with `grpc`."""

import concurrent.futures
import json
import platform
import time

import grpc
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc

import receiving

SEVERITIES = {1: 9, 2: 10, 3: 13, 4: 17, 5: 21}


def export(request, output, options):
    """Stores what is not to be rejected; returns the answer."""
    rejected = 0
    lines = []
    (resource_logs,) = request.resource_logs
    resource = attributes(resource_logs.resource)
    assert resource == {"service.name": "agentguard", "host.name": platform.node()}, resource
    (scope_logs,) = resource_logs.scope_logs
    assert scope_logs.scope.name == "agentguard"
    for record in scope_logs.log_records:
        line = record.body.string_value
        event = json.loads(line)
        assert record.event_name == event["type_name"]
        assert record.severity_number == SEVERITIES[event["severity_id"]]
        assert record.severity_text
        assert record.time_unix_nano == event["time"] * 1_000_000
        assert abs(record.observed_time_unix_nano / 1e9 - time.time()) < 60
        assert attributes(record) == {
            "agentguard.sequence": event["number"],
            "log.record.uid": event["metadata"]["uid"],
        }
        if event["number"] in options.get("reject", []):
            rejected += 1
        else:
            lines.append(line)
    output.append(lines)
    answer = logs_service_pb2.ExportLogsServiceResponse()
    if rejected:
        answer.partial_success.rejected_log_records = rejected
        answer.partial_success.error_message = "not \x1b[2Jthese"
    elif options.get("warn"):
        answer.partial_success.error_message = "all taken, but slow down"
    return answer


def attributes(of):
    values = {}
    for attribute in of.attributes:
        kind = attribute.value.WhichOneof("value")
        values[attribute.key] = getattr(attribute.value, kind)
    return values


class Collector(receiving.Handler):
    def received(self, body):
        token = self.options.get("token")
        if token and self.headers["authorization"] != "Bearer " + token:
            return 401, b"who are you?"
        if self.path != "/v1/logs" or self.headers["content-type"] != "application/x-protobuf":
            return 404, b""
        request = logs_service_pb2.ExportLogsServiceRequest.FromString(body)
        return 200, export(request, self.output, self.options).SerializeToString()

    def answer_type(self):
        return "application/x-protobuf"


class Service(logs_service_pb2_grpc.LogsServiceServicer):
    def __init__(self, output, options):
        self.output, self.options = output, options
        self.calls = 0

    def Export(self, request, context):
        self.calls += 1
        half = self.options.get("delay", 0) / 2
        time.sleep(half)
        token = self.options.get("token")
        if token and ("authorization", "Bearer " + token) not in context.invocation_metadata():
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you, caf\u00e9?")
        injected = self.options.get("inject")
        if injected and self.calls % injected["every"] == 0:
            context.abort(grpc.StatusCode[injected["code"]], "try \x1b[2Jlater")
        answer = export(request, self.output, self.options)
        time.sleep(half)
        return answer


def serve_grpc(port, output, options):
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
    logs_service_pb2_grpc.add_LogsServiceServicer_to_server(Service(output, options), server)
    if "certificate" in options:
        pem = open(options["certificate"], "rb").read()
        ca = open(options["client_ca"], "rb").read()
        credentials = grpc.ssl_server_credentials(
            [(pem, pem)], root_certificates=ca, require_client_auth=True
        )
        port = server.add_secure_port(f"127.0.0.1:{port}", credentials)
    else:
        port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    receiving.ready(port)
    server.wait_for_termination()


def serve():
    port, output, options = receiving.begin()
    if options.get("grpc"):
        serve_grpc(port, output, options)
    else:
        receiving.serve_http(Collector, port, output, options)


serve()
