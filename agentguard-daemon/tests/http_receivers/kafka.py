"""A cluster of librdkafka's mock brokers, over TCP, and a consumer that reads it back.

The cluster is made through librdkafka's C interface, which can do more than its Python one: brokers go
down and come up as lines on standard input say, `down N` and `up N`; `fail N` has brokers answer the
next N produce requests with an error. With `certificate` a proxy that speaks TLS is before each broker.

What brokers have is in memory, so that a process that is killed takes with it what was acknowledged.
"""

import ctypes
import glob
import os
import select
import socket
import ssl
import sys
import threading

import confluent_kafka

import receiving

PRODUCER = 0
PRODUCE = 0
NOT_ENOUGH_REPLICAS = 19
BROKERS = 3

(library,) = glob.glob(
    os.path.dirname(os.path.dirname(confluent_kafka.__file__)) + "/confluent_kafka.libs/librdkafka-*"
)
rdkafka = ctypes.CDLL(library)
pointer, integer, text = ctypes.c_void_p, ctypes.c_int32, ctypes.c_char_p
rdkafka.rd_kafka_new.restype = pointer
rdkafka.rd_kafka_mock_cluster_new.restype = pointer
rdkafka.rd_kafka_mock_cluster_new.argtypes = [pointer, ctypes.c_int]
rdkafka.rd_kafka_mock_cluster_bootstraps.restype = text
rdkafka.rd_kafka_mock_cluster_bootstraps.argtypes = [pointer]
rdkafka.rd_kafka_mock_topic_create.argtypes = [pointer, text, ctypes.c_int, ctypes.c_int]
rdkafka.rd_kafka_mock_broker_set_down.argtypes = [pointer, integer]
rdkafka.rd_kafka_mock_broker_set_up.argtypes = [pointer, integer]
rdkafka.rd_kafka_mock_broker_set_rtt.argtypes = [pointer, integer, ctypes.c_int]
rdkafka.rd_kafka_mock_broker_set_host_port.argtypes = [pointer, integer, text, ctypes.c_int]
rdkafka.rd_kafka_mock_push_request_errors_array.argtypes = [
    pointer,
    ctypes.c_int16,
    ctypes.c_size_t,
    ctypes.POINTER(ctypes.c_int),
]


def begin_cluster(options):
    """Returns the cluster and its addresses."""
    reason = ctypes.create_string_buffer(512)
    handle = rdkafka.rd_kafka_new(PRODUCER, None, reason, ctypes.c_size_t(len(reason)))
    assert handle, reason.value
    cluster = rdkafka.rd_kafka_mock_cluster_new(handle, BROKERS)
    partitions = options.get("partitions", 1)
    error = rdkafka.rd_kafka_mock_topic_create(cluster, b"agentguard", partitions, BROKERS)
    assert error == 0, error
    for broker in range(1, BROKERS + 1):
        rdkafka.rd_kafka_mock_broker_set_rtt(cluster, broker, options.get("delay_ms", 0))
    return cluster, rdkafka.rd_kafka_mock_cluster_bootstraps(cluster).decode()


def consume(brokers, options, output):
    partitions = options.get("partitions", 1)
    settings = {"bootstrap.servers": brokers, "group.id": "test", "fetch.wait.max.ms": 50}
    # That brokers go down is no news.
    quiet = {"log_level": 2, "reconnect.backoff.max.ms": 500}
    consumer = confluent_kafka.Consumer(settings | quiet | options.get("consumer", {}))
    earliest = confluent_kafka.OFFSET_BEGINNING
    consumer.assign(
        [confluent_kafka.TopicPartition("agentguard", it, earliest) for it in range(partitions)]
    )
    while True:
        lines = []
        for message in consumer.consume(1000, 0.1):
            if message.error():
                continue
            (header,) = message.headers()
            line = message.value().decode()
            assert header[0] == "agentguard-sequence" and f'"number":{int(header[1])},' in line
            assert f'"time":{message.timestamp()[1]},' in line
            lines.append(line)
        output.append(lines)


def proxy(broker, options):
    """Listens with TLS for a broker; returns the port."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(options["certificate"])
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_verify_locations(options["client_ca"])
    listener = socket.create_server(("127.0.0.1", 0))

    def accept():
        while True:
            plain = listener.accept()[0]
            threading.Thread(target=forward, args=(plain,), daemon=True).start()

    def forward(plain):
        try:
            client = tls.wrap_socket(plain, server_side=True)
            server = socket.create_connection(broker)
            while True:
                ready = [client] if client.pending() else select.select([client, server], [], [])[0]
                for one, other in [(client, server), (server, client)]:
                    if one in ready:
                        data = one.recv(1 << 16)
                        if not data:
                            return
                        other.sendall(data)
        except OSError:
            pass

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]


def main():
    _, output, options = receiving.begin()
    cluster, brokers = begin_cluster(options)
    if "certificate" in options:
        addresses = [address.rsplit(":", 1) for address in brokers.split(",")]
        ports = [proxy((host, int(port)), options) for host, port in addresses]
        for broker, port in enumerate(ports, 1):
            rdkafka.rd_kafka_mock_broker_set_host_port(cluster, broker, b"localhost", port)
        brokers = ",".join(f"localhost:{port}" for port in ports)
    threading.Thread(target=consume, args=(brokers, options, output), daemon=True).start()
    receiving.ready(brokers)
    for line in sys.stdin:
        word, number = line.split()
        number = int(number)
        if word == "down":
            rdkafka.rd_kafka_mock_broker_set_down(cluster, number)
        elif word == "up":
            rdkafka.rd_kafka_mock_broker_set_up(cluster, number)
        elif word == "fail":
            errors = (ctypes.c_int * number)(*[NOT_ENOUGH_REPLICAS] * number)
            rdkafka.rd_kafka_mock_push_request_errors_array(cluster, PRODUCE, number, errors)


main()
