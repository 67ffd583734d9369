#!/usr/bin/env python3
"""Reads a data directory as docs/format.md says, with nothing but that text and Python's own library.

    docs/format_reader.py DIR          prints every swamp with its treasures as JSON

It proves the document and shows how little a reader needs. It does not list conflicts, and gives no version
for values with increments (that takes XXH3-128).
"""
import datetime
import json
import os
import re
import struct
import sys

MAGIC = bytes.fromhex("894859430d0a1a0a")
DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"
NAME = re.compile(r"^([a-z0-9_]{1,32})-([%s]{13})-([%s]{4}|[%s]{7})\.(hyl|hys)$" % (DIGITS, DIGITS, DIGITS))
M64 = (1 << 64) - 1
ZERO = (0, 0)


def crc_table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


TABLE = crc_table()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def xxh64(data):
    p1, p2, p3, p4, p5 = (11400714785074694791, 14029467366897019727, 1609587929392839161, 9650029242287828579,
                          2870177450012600261)

    def rotate(x, r):
        return ((x << r) | (x >> (64 - r))) & M64

    def mix(acc, lane):
        return rotate((acc + lane * p2) & M64, 31) * p1 & M64

    at, length = 0, len(data)
    if length >= 32:
        lanes = [(p1 + p2) & M64, p2, 0, (-p1) & M64]
        while at + 32 <= length:
            for i in range(4):
                lanes[i] = mix(lanes[i], struct.unpack_from("<Q", data, at + 8 * i)[0])
            at += 32
        h = sum(rotate(lane, r) for lane, r in zip(lanes, (1, 7, 12, 18))) & M64
        for lane in lanes:
            h = ((h ^ mix(0, lane)) * p1 + p4) & M64
    else:
        h = p5
    h = (h + length) & M64
    while at + 8 <= length:
        h = (rotate(h ^ mix(0, struct.unpack_from("<Q", data, at)[0]), 27) * p1 + p4) & M64
        at += 8
    if at + 4 <= length:
        h = (rotate(h ^ (struct.unpack_from("<I", data, at)[0] * p1 & M64), 23) * p2 + p3) & M64
        at += 4
    for byte in data[at:]:
        h = rotate(h ^ (byte * p5 & M64), 11) * p1 & M64
    h = (h ^ (h >> 33)) * p2 & M64
    h = (h ^ (h >> 29)) * p3 & M64
    return h ^ (h >> 32)


def lz4(data, length):
    out, at = bytearray(), 0

    def extended(count):
        nonlocal at
        while count >= 15:
            more = data[at]
            at += 1
            count += more
            if more < 255:
                break
        return count

    while at < len(data):
        token = data[at]
        at += 1
        literals = extended(token >> 4)
        out += data[at:at + literals]
        at += literals
        if at >= len(data):
            break
        distance = data[at] | data[at + 1] << 8
        at += 2
        for _ in range(extended(token & 15) + 4):
            out.append(out[-distance])
    assert len(out) == length
    return bytes(out)


def base32(text):
    value = 0
    for digit in text:
        value = value * 32 + DIGITS.index(digit)
    return value


def to_base32(value, width):
    return "".join(DIGITS[value >> 5 * at & 31] for at in reversed(range(width)))


class Damaged(Exception):
    pass


class Reader:
    def __init__(self, data, at=0):
        self.data, self.at = data, at

    def take(self, count):
        if self.at + count > len(self.data):
            raise Damaged("too short")
        self.at += count
        return self.data[self.at - count:self.at]

    def number(self, width):
        return int.from_bytes(self.take(width), "little")

    def varint(self):
        value = shift = 0
        while True:
            byte = self.number(1)
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def signed(self):
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def bytes(self):
        return self.take(self.varint())

    def text(self):
        return self.bytes().decode()

    def stamp(self):
        return (self.number(8), self.number(8))

    def vector(self, count):
        return {incarnation: hlc for incarnation, hlc in (self.stamp() for _ in range(count))}


class Frame:
    """A frame whose checksum holds; `start` and `end` are where it stands."""

    def __init__(self, data, start, salt):
        reader = Reader(data, start)
        self.start, self.magic, self.flags = start, reader.number(1), reader.number(1)
        if self.magic not in (0xA6, 0xFE) or self.flags & ~0x19:
            raise Damaged("no frame")
        stored = raw = reader.varint()
        if self.flags & 3:
            raw = reader.varint()
        if max(stored, raw) > 40 << 20:
            raise Damaged("no frame")
        head = data[start:reader.at]
        checksum, payload = reader.number(4), reader.take(stored)
        crc = crc32c(struct.pack("<QQ", salt, start) + head + payload)
        if ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF != checksum:
            raise Damaged("checksum")
        self.end = reader.at
        self.payload = lz4(payload, raw) if self.flags & 3 else payload


def frame_at(data, start, salt):
    try:
        frame = Frame(data, start, salt)
        return frame if frame.magic == 0xA6 else None
    except Damaged:
        return None


class Empty(Exception):
    """A creation that was cut short."""


class Chunk:
    def __init__(self, file_name, data):
        server, incarnation, seq, kind = NAME.match(file_name).groups()
        self.server, self.incarnation, self.seq, self.snap = server, base32(incarnation), base32(seq), kind == "hys"
        self.order = (self.incarnation, self.seq, self.snap, server)
        self.salt = self.incarnation ^ self.seq * 0x9E3779B97F4A7C15 & M64
        self.degraded = self.newer = False
        self.read_header(data)
        footer = self.read_footer(data)
        self.frames = self.read_frames(data[:footer.start] if footer else data, footer is not None)
        self.closed = footer is not None
        if footer and crc32c(data[:footer.start]) != self.crc:
            self.degraded = True
        self.valid = not self.snap or (self.closed and not self.degraded)
        self.content = [self.records(frame) for frame in self.frames]

    def read_header(self, data):
        if not any(data):
            raise Empty
        if data[:8] != MAGIC[:len(data)]:
            raise Damaged("magic")
        if len(data) < 64:
            raise Empty
        (version, kind, flags, length, incarnation, _, seq, self.folders, self.base, _, _, name, entries,
         self.cluster) = struct.unpack_from("<HBBIQQIIQIIHHI", data, 8)
        if length != 64 + name + 16 * entries + 4:
            raise Damaged("lengths")
        if len(data) < length:
            raise Empty
        if crc32c(data[:length - 4]) != struct.unpack_from("<I", data, length - 4)[0]:
            raise Damaged("header")
        if version != 1 or flags:
            raise Damaged("newer")
        if (kind == 2, incarnation, seq) != (self.snap, self.incarnation, self.seq):
            raise Damaged("another chunk")
        self.name = data[64:64 + name].decode()
        self.header_vector = self.vector = Reader(data, 64 + name).vector(entries)
        self.header_end = length

    def read_footer(self, data):
        if len(data) < self.header_end + 16 or data[-4:] != b"HYE1" or crc32c(data[-16:-8]) != Reader(data, len(data) - 8).number(4):
            return None
        try:
            frame = Frame(data, Reader(data, len(data) - 16).number(8), self.salt)
        except Damaged:
            return None
        if frame.magic != 0xFE or frame.end != len(data) - 16:
            return None
        reader = Reader(frame.payload)
        reader.varint(), reader.number(8)
        self.crc = reader.number(4)
        vector = reader.vector(reader.varint())
        if self.snap:
            self.vector = vector
        return frame

    def read_frames(self, data, closed):
        frames, at = [], self.header_end
        while at < len(data):
            frame = frame_at(data, at, self.salt)
            if frame is None:
                behind = [f for f in (frame_at(data, o, self.salt) for o in range(at + 1, len(data))) if f]
                if not (closed or any(f.flags & 8 for f in behind) or self.one_bit(data, at)):
                    break
                self.degraded = True
                if not behind:
                    break
                frame = behind[0]
            frames.append(frame)
            at = frame.end
        return frames

    def one_bit(self, data, at):
        copy = bytearray(data)
        for bit in range(at * 8, len(data) * 8):
            copy[bit // 8] ^= 1 << bit % 8
            if frame_at(bytes(copy), at, self.salt):
                return True
            copy[bit // 8] ^= 1 << bit % 8
        return False

    def records(self, frame):
        """The idempotency key of a frame, and its records as tuples (kind, …)."""
        reader, key, found = Reader(frame.payload), None, []
        if frame.flags & 0x10:
            key = (reader.number(16), reader.number(8), reader.bytes())[0]
        self.previous, self.first = self.base, True
        try:
            while reader.at < len(frame.payload):
                found.append(self.record(reader))
        except Damaged:
            self.newer = True
        return key, found

    def stamp(self, reader):
        if self.snap:
            incarnation = sorted(self.header_vector)[reader.varint()]
            clock = self.previous + reader.signed()
        else:
            incarnation = self.incarnation
            clock = self.previous + ((reader.varint() << 16) + reader.varint() if self.first else reader.varint())
        self.previous, self.first = clock, False
        return (clock, incarnation)

    def base_stamp(self, reader, own):
        how = reader.number(1)
        if how == 1 and own:
            return (own[0] - reader.varint(), own[1])
        if how > 2 or how == 1:
            raise Damaged("base")
        return reader.stamp() if how else ZERO

    def write(self, kind, reader, own):
        key = reader.text()
        if kind & 15 == 1:
            value = reader.bytes()
            expires = reader.varint() if kind & 0x10 else None
            age = reader.varint() if kind & 0x20 else 0
            content_type = reader.text() if kind & 0x40 else None
            return ("put", key, value, expires, age, content_type)
        if kind & 15 == 2:
            return ("del", key)
        return ("add", key, reader.text(), self.base_stamp(reader, own), reader.signed())

    def record(self, reader):
        kind = reader.number(1)
        what = kind & 15
        if what in (1, 2, 3):
            stamp = self.stamp(reader)
            return ("write", stamp, self.write(kind, reader, None if self.snap else stamp))
        if what == 4:
            stamp = reader.stamp()
            return ("adopt", stamp, self.write(reader.number(1), reader, None))
        if what == 5:
            return ("sync", reader.vector(reader.varint()))
        if what == 7:
            key, pointer, base = reader.text(), reader.text(), self.base_stamp(reader, None)
            sums = []
            for _ in range(reader.varint()):
                incarnation, total, last = reader.number(8), reader.signed(), reader.number(8)
                sums.append((incarnation, total, last - reader.varint(), last))
            return ("counter", key, pointer, base, sums)
        if what == 8:
            return self.conflict(reader)
        if what == 9:
            key, _, stamp, _ = reader.number(16), reader.number(8), reader.stamp(), reader.bytes()
            adds = [(reader.varint(), reader.text(), reader.text(), self.base_stamp(reader, None), reader.signed(),
                     reader.stamp()) for _ in range(reader.varint())]
            return ("key", key, stamp, adds)
        raise Damaged("record")

    def conflict(self, reader):
        kind = reader.number(1)
        _ = self.write(kind, reader, None) if kind else reader.text()
        reader.stamp(), reader.varint(), reader.text()
        for _ in range(reader.varint()):
            reader.text(), reader.number(8), reader.signed(), reader.number(8), reader.varint()
        for _ in range(reader.varint()):
            reader.stamp()
        reader.text()
        return ("conflict",)


def within(vector, known):
    return all(known.get(incarnation, 0) >= hlc for incarnation, hlc in vector.items())


def saw(vector, stamp):
    return vector.get(stamp[1], 0) >= stamp[0]


class Merge:
    def __init__(self, chunks):
        self.winners, self.sums, self.late, self.keys, self.known = {}, {}, {}, {}, {}
        self.complete = True
        chunks = sorted(chunks, key=lambda chunk: chunk.order)
        self.read_snapshots([c for c in chunks if c.snap and c.valid])
        self.attach([c for c in chunks if not c.snap])
        self.doubtful([c for c in chunks if c.snap and not c.valid])
        self.late = {stamp: add for stamp, add in self.late.items() if not saw(self.known, stamp)}
        self.twins = self.find_twins()

    def read_snapshots(self, snaps):
        for snap in snaps:
            for incarnation, hlc in snap.vector.items():
                self.known[incarnation] = max(hlc, self.known.get(incarnation, 0))
        self.covered = dict(self.known)
        held = []
        for snap in snaps:
            records = [record for _, records in snap.content for record in records]
            held.append((snap, records, {(r[2][1], r[1]) for r in records if r[0] == "write"},
                         {(r[1], r[2], r[3], s[0]) for r in records if r[0] == "counter" for s in r[4]}))
        for snap, records, _, _ in held:
            others = [other for other in held if other[0] is not snap]
            for record in records:
                if record[0] == "write":
                    dead = any(saw(o.vector, record[1]) and (record[2][1], record[1]) not in writes
                               for o, _, writes, _ in others)
                    if not dead:
                        self.win(record[1], record[2])
                elif record[0] == "adopt":
                    self.loose(record[1], record[2])
                elif record[0] == "key":
                    self.keys.setdefault(record[1], []).extend(record[3])
                elif record[0] == "counter":
                    _, key, pointer, base, sums = record
                    for incarnation, total, first, last in sums:
                        owner = max(snaps, key=lambda s: (s.vector.get(incarnation, 0), s.order))
                        dead = any(o.vector.get(incarnation, 0) >= last and (key, pointer, base, incarnation) not in counts
                                   for o, _, _, counts in others)
                        if owner is snap and not dead:
                            self.count(key, pointer, base, incarnation, total, first, last)

    def win(self, stamp, write):
        if write[1] not in self.winners or stamp > self.winners[write[1]][0]:
            self.winners[write[1]] = (stamp, write)

    def count(self, key, pointer, base, incarnation, total, first, last):
        old = self.sums.get((key, pointer, base, incarnation), (0, first, last))
        self.sums[key, pointer, base, incarnation] = (old[0] + total, min(old[1], first), max(old[2], last))

    def loose(self, stamp, write):
        if saw(self.covered, stamp):
            return
        if write[0] == "add":
            self.late[stamp] = write
        else:
            self.win(stamp, write)

    def remember(self, key, records):
        if key is None:
            return
        positions = {}
        for record in records:
            if record[0] in ("write", "adopt") and record[2][0] == "add":
                _, name, pointer, base, delta = record[2]
                position = positions.get((name, pointer), 0)
                positions[name, pointer] = position + 1
                self.keys.setdefault(key, []).append((position, name, pointer, base, delta, record[1]))

    def attach(self, logs):
        pending = [[log, 0] for log in logs]
        progress = True
        while progress and pending:
            progress, stuck, waiting = False, set(), []
            for entry in pending:
                log, before = entry[0], entry[1]
                if log.incarnation not in stuck and self.attach_one(entry):
                    progress = True
                    continue
                progress |= entry[1] > before
                stuck.add(log.incarnation)
                waiting.append(entry)
            pending = waiting
        for log, at in pending:
            for key, records in log.content[at:]:
                self.remember(key, records)
                for record in records:
                    if record[0] in ("write", "adopt"):
                        self.complete &= saw(self.known, record[1])
                        self.loose(record[1], record[2])

    def attach_one(self, entry):
        log = entry[0]
        if entry[1] == 0 and not within(log.header_vector, self.known):
            return False
        while entry[1] < len(log.content):
            key, records = log.content[entry[1]]
            if any(r[0] == "sync" and not within(r[1], self.known) for r in records):
                return False
            self.remember(key, records)
            for record in records:
                if record[0] == "adopt":
                    self.loose(record[1], record[2])
                elif record[0] == "write" and not saw(self.covered, record[1]):
                    self.take(record[1], record[2])
            entry[1] += 1
        return True

    def take(self, stamp, write):
        if write[0] != "add":
            self.win(stamp, write)
        elif not saw(self.known, stamp):
            _, key, pointer, base, delta = write
            self.count(key, pointer, base, stamp[1], delta, stamp[0], stamp[0])
        self.known[stamp[1]] = max(stamp[0], self.known.get(stamp[1], 0))

    def doubtful(self, snaps):
        needed = [snap for snap in snaps if not within(snap.header_vector, self.known)]
        for snap in needed:
            self.complete = False
            for key, records in snap.content:
                for record in records:
                    if record[0] in ("write", "adopt"):
                        self.loose(record[1], record[2])
                    elif record[0] == "counter":
                        for incarnation, total, first, last in record[4]:
                            owner = max(needed, key=lambda s: (s.header_vector.get(incarnation, 0), s.order))
                            if incarnation not in self.known and owner is snap:
                                self.count(*record[1:4], incarnation, total, first, last)
                    elif record[0] == "key":
                        self.keys.setdefault(record[1], []).extend(record[3])

    def counts(self, add):
        _, key, pointer, base, _, stamp = add
        span = self.sums.get((key, pointer, base, stamp[1]))
        return stamp in self.late or (span and span[1] <= stamp[0] <= span[2])

    def find_twins(self):
        twins = set()
        for adds in self.keys.values():
            seen = set()
            for add in sorted({add for add in adds if self.counts(add)}, key=lambda add: add[5]):
                if add[:5] in seen:
                    twins.add(add)
                seen.add(add[:5])
        return twins

    def treasures(self, now):
        keys = set(self.winners) | {name[0] for name in self.sums} | {add[1] for add in self.late.values()}
        found = (self.treasure(key, now) for key in sorted(keys, key=str.encode))
        return [treasure for treasure in found if treasure]

    def treasure(self, key, now):
        stamp, write = self.winners.get(key, (ZERO, ("del", key)))
        sums = [(total, first, last) for (name, pointer, base, _), (total, first, last) in self.sums.items()
                if (name, pointer, base) == (key, "", stamp)]
        sums += [(add[4], at[0], at[0]) for at, add in self.late.items() if add[1:4] == (key, "", stamp)]
        if write[0] == "del" and not sums:
            return None
        value, expires, age, content_type = write[2:] if write[0] == "put" else (b"0", None, 0, None)
        if expires is not None and expires <= now:
            return None
        created, updated = (stamp[0] >> 16) - age, stamp[0] >> 16
        out = {"key": key}
        if sums:
            twins = sum(add[4] for add in self.twins if add[1:4] == (key, "", stamp))
            value = str(int(value) + sum(total for total, _, _ in sums) - twins).encode()
            updated = max(updated, max(last for _, _, last in sums) >> 16)
            if write[0] == "del":
                created = min(first for _, first, _ in sums) >> 16
        else:
            out["version"] = "%s-%s" % (to_base32(stamp[0], 13), to_base32(stamp[1], 13))
        out.update(createdAt=time(created), updatedAt=time(updated))
        if content_type is None:
            out["text"] = value.decode()
        else:
            out.update(contentType=content_type, hex=value.hex())
        if expires is not None:
            out["expiresAt"] = time(expires)
        return out


def time(millis):
    moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(milliseconds=millis)
    return moment.isoformat(timespec="milliseconds") + "Z"


def read_hydra(root):
    text = open(os.path.join(root, "HYDRA"), "rb").read()
    body, crc = text[:-16], text[-16:]
    assert crc == b"crc32c %08x\n" % crc32c(body), "HYDRA is damaged"
    first, folders, hashing, names, cluster = body.decode().splitlines()
    assert (first, hashing, names) == ("hydra-data 1", "hash xxh64", "names pct1")
    return int(folders.split()[1]), cluster.split()[1]


def read_swamp(path, files, folder, folders, cluster):
    chunks, degraded, names = [], False, {}
    for file in files:
        try:
            chunk = Chunk(file, open(os.path.join(path, file), "rb").read())
        except Empty:
            continue
        except Damaged:
            degraded = True
            continue
        here = xxh64(chunk.name.encode()) % folders == folder and chunk.folders == folders
        if not here or chunk.cluster != xxh64(cluster.encode()) & 0xFFFFFFFF:
            degraded = True
            continue
        degraded |= chunk.degraded or chunk.newer
        chunks.append(chunk)
        names[chunk.name] = names.get(chunk.name, 0) + 1
    name = max(names, key=names.get) if names else None
    merge = Merge(chunks)
    now = int(datetime.datetime.now(datetime.timezone.utc).timestamp() * 1000)
    copy = "degraded" if degraded else "complete" if merge.complete else "incomplete"
    return name, {"copy": copy, "treasures": merge.treasures(now)}


def read(root):
    folders, cluster = read_hydra(root)
    swamps = {}
    for folder in range(folders):
        for path, _, files in os.walk(os.path.join(root, "%05d" % folder)):
            files = [file for file in files if NAME.match(file)]
            if files:
                name, swamp = read_swamp(path, files, folder, folders, cluster)
                swamps[name or os.path.relpath(path, root)] = swamp
    return {"swamps": swamps}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    json.dump(read(sys.argv[1]), sys.stdout, indent=2, ensure_ascii=False)
    print()
