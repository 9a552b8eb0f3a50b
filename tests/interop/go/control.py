"""Drives the retired Go p2pd for the interop tests: commands on standard input, JSON events on standard output, one a
line. Standard library only. control.py PATH-OF-GO-P2PD [FLAG...]

    identify            {"event": "identify", "peer_id", "addrs"}
    connect MULTIADDR   {"event": "connected", "peer_id"}; /ip4/A/tcp/P/p2p/ID
    disconnect ID       {"event": "disconnected", "peer_id"}
    peers               {"event": "peers", "peers": [{"peer_id", "addrs"}]}
    sub TOPIC           {"event": "subscribed", "topic"}, then for each {"event": "message", "topic", "sender", "data"}
    unsub TOPIC         {"event": "unsubscribed", "topic"}
    followers TOPIC     {"event": "followers", "topic", "peers": [ID]}
    pub TOPIC BASE64    {"event": "published", "topic"}, also when nobody follows
    provide HEX         {"event": "provided", "key"}; the multihash of content
    providers HEX       {"event": "providers", "key", "peers": [{"peer_id", "addrs"}]}
    find ID             {"event": "found", "peer_id", "addrs"}
    echo PROTOCOL       {"event": "echoing", "protocol"}, then for each stream {"event": "echoed", "peer_id", "bytes"}
    send ID PROTOCOL N  {"event": "sent", "bytes", "same"}: N bytes there and what came back, whether they are the same

First comes {"event": "ready", "peer_id", "addrs"}. A command that failed gives {"event": "error", "cmd", "message"}.
Data is base64. What the daemon logs goes to standard error. The end of the input ends both.
"""

import base64, ctypes, functools, io, json, pathlib, re, signal, socket, subprocess, sys, tempfile, threading, time

IDENTIFY, CONNECT, STREAM_OPEN, STREAM_HANDLER, DHT = 0, 1, 2, 3, 4  # Request.Type
LIST_PEERS, DISCONNECT, PUBSUB = 5, 7, 8
FIND_PEER, FIND_PROVIDERS, PROVIDE = 0, 2, 8  # DHTRequest.Type
END = 2  # DHTResponse.Type
FOLLOWERS, PUBLISH, SUBSCRIBE = 1, 2, 3  # PSRequest.Type
ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def varint(n):
    return bytes([n]) if n < 0x80 else bytes([n & 0x7F | 0x80]) + varint(n >> 7)


def read_varint(source):
    n = shift = 0
    while byte := source.read(1):
        n, shift = n | (byte[0] & 0x7F) << shift, shift + 7
        if byte[0] < 0x80:
            return n
    raise EOFError("the daemon closed the connection")


def encode(*pairs):
    """Protobuf from pairs of a field's number and its value, an int or bytes."""
    whole = lambda value: varint(value) if isinstance(value, int) else varint(len(value)) + value
    return b"".join(varint(field << 3 | (not isinstance(value, int)) * 2) + whole(value) for field, value in pairs)


def decode(data):
    """The values of each field; only the two wire types that the control protocol uses."""
    found, source = {}, io.BytesIO(data)
    while source.tell() < len(data):
        key, value = read_varint(source), read_varint(source)
        found.setdefault(key >> 3, []).append(source.read(value) if key & 7 == 2 else value)
    return found


def peer_bytes(text):
    n = functools.reduce(lambda n, char: n * 58 + ALPHABET.index(char), text, 0)
    return bytes(len(text) - len(text.lstrip("1"))) + n.to_bytes((n.bit_length() + 7) // 8, "big")


def peer_text(data):
    n, text = int.from_bytes(data, "big"), ""
    while n:
        n, text = n // 58, ALPHABET[n % 58] + text
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + text


def address_bytes(text):
    host, port = re.fullmatch(r"/ip4/([0-9.]+)/tcp/([0-9]+)", text).groups()
    return b"\x04" + socket.inet_aton(host) + b"\x06" + int(port).to_bytes(2, "big")


def address_text(data):
    return f"/ip4/{socket.inet_ntoa(data[1:5])}/tcp/{int.from_bytes(data[6:], 'big')}" if len(data) == 8 else data.hex()


def peer_info(data):
    info = decode(data)
    return {"peer_id": peer_text(info[1][0]), "addrs": [address_text(a) for a in info.get(2, [])]}


def pubsub(kind, topic, *more):
    return ask(PUBSUB, (8, encode((1, kind), (2, topic.encode()), *more)))


def say(event, **more):
    with printing:
        print(json.dumps({"event": event, **more}), flush=True)


def ask(kind, *more):
    """Sends a request over a connection of its own. The answer's fields, the connection, and what follows on it."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    source, request = connection.makefile("rb"), encode((1, kind), *more)
    connection.sendall(varint(len(request)) + request)
    answer = decode(source.read(read_varint(source)))
    if answer[1] != [0]:
        raise RuntimeError(decode(answer[2][0])[1][0].decode())
    return answer, connection, source


def follow(topic, source):
    try:
        while size := read_varint(source):
            told = decode(source.read(size))
            data = base64.b64encode(told.get(2, [b""])[0]).decode()
            say("message", topic=topic, sender=peer_text(told[1][0]), data=data)
    except (EOFError, OSError):
        say("unsubscribed", topic=topic)


def connect(multiaddr):
    address, peer = multiaddr.split("/p2p/")
    ask(CONNECT, (2, encode((1, peer_bytes(peer)), (2, address_bytes(address)), (3, 10))))
    say("connected", peer_id=peer)


def subscribe(topic):
    _, following[topic], source = pubsub(SUBSCRIBE, topic)
    say("subscribed", topic=topic)
    threading.Thread(target=follow, args=(topic, source), daemon=True).start()


def dht(kind, *more):
    return ask(DHT, (5, encode((1, kind), *more, (7, 10))))


def providers(key):
    _, _, source = dht(FIND_PROVIDERS, (3, b"\x01\x55" + bytes.fromhex(key)), (6, 20))
    peers = []
    while (told := decode(source.read(read_varint(source))))[1] != [END]:
        peers.append(peer_info(told[2][0]))
    say("providers", key=key, peers=peers)


def find(peer):
    answer, _, _ = dht(FIND_PEER, (2, peer_bytes(peer)))
    say("found", **peer_info(decode(answer[5][0])[2][0]))


def carry_back(connection):
    source = connection.makefile("rb")
    info, count = decode(source.read(read_varint(source))), 0
    while data := source.read1(65536):
        connection.sendall(data)
        count += len(data)
    connection.shutdown(socket.SHUT_WR)
    say("echoed", peer_id=peer_text(info[1][0]), bytes=count)


def echo(protocol):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(place := f"{work}/{len(following)}-{time.monotonic_ns()}.sock")
    listener.listen()
    # A multiaddr of a Unix socket: code 400, then its path.
    address = varint(400) + varint(len(place)) + place.encode()
    ask(STREAM_HANDLER, (4, encode((1, address), (2, protocol.encode()), (3, 0))))  # 3: not one of many
    say("echoing", protocol=protocol)

    def accept():
        while True:
            threading.Thread(target=carry_back, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def send(peer, protocol, count):
    wanted = bytes(n % 251 for n in range(int(count)))
    _, connection, source = ask(STREAM_OPEN, (3, encode((1, peer_bytes(peer)), (2, protocol.encode()), (3, 10))))

    threading.Thread(target=connection.sendall, args=(wanted,), daemon=True).start()
    back = source.read(len(wanted))
    connection.close()
    say("sent", bytes=len(back), same=back == wanted)


commands = {
    "provide": lambda key: (dht(PROVIDE, (3, b"\x01\x55" + bytes.fromhex(key))), say("provided", key=key)),
    "providers": providers,
    "find": find,
    "echo": echo,
    "send": send,
    "identify": lambda: say("identify", **peer_info(ask(IDENTIFY)[0][4][0])),
    "connect": connect,
    "disconnect": lambda peer: (ask(DISCONNECT, (7, encode((1, peer_bytes(peer))))), say("disconnected", peer_id=peer)),
    "peers": lambda: say("peers", peers=[peer_info(peer) for peer in ask(LIST_PEERS)[0].get(6, [])]),
    "sub": subscribe,
    "unsub": lambda topic: following.pop(topic).shutdown(socket.SHUT_RDWR),
    "followers": lambda topic: say("followers", topic=topic, peers=[
        peer_text(peer) for peer in decode(pubsub(FOLLOWERS, topic)[0][7][0]).get(2, [])]),
    "pub": lambda topic, data="": (pubsub(PUBLISH, topic, (3, base64.b64decode(data))), say("published", topic=topic)),
}
following, printing = {}, threading.Lock()
with tempfile.TemporaryDirectory() as work:
    path = f"{work}/control.sock"
    flags = ["-listen", f"/unix{path}", "-hostAddrs", "/ip4/127.0.0.1/tcp/0", "-pubsub", *sys.argv[2:]]
    bound = lambda: ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it never outlives this program
    daemon = subprocess.Popen([sys.argv[1], *flags], stdin=subprocess.DEVNULL, stdout=sys.stderr, preexec_fn=bound)
    while not pathlib.Path(path).exists():
        if daemon.poll() is not None:
            sys.exit("the Go p2pd did not start")
        time.sleep(0.05)
    time.sleep(0.05)  # It is bound a moment before it listens.
    say("ready", **peer_info(ask(IDENTIFY)[0][4][0]))
    for line in sys.stdin:
        name, *words = line.split() or [""]
        try:
            commands[name](*words)
        except Exception as error:
            say("error", cmd=name, message=f"{type(error).__name__}: {error}")
