"""Our reader of config.pbtxt against protobuf's, on all of Triton's schema.

The oracle is protobuf's text_format with tritonclient's model_config_pb2; what it reads and what we
read is compared as protobuf's JSON, with 64-bit integers as numbers.
"""

import json
import random
import re
import struct

import pytest

config_to_json = pytest.importorskip("tensorferry._server").config_to_json
REASON = "needs protobuf and tritonclient[grpc] to compare with"
pytest.importorskip("google.protobuf", reason=REASON)
model_config_pb2 = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason=REASON)

from google.protobuf import json_format, text_format  # noqa: E402
from google.protobuf.descriptor import FieldDescriptor  # noqa: E402

SEEDS = range(150)
INT64 = {FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64}


def is_repeated(field):
    value = getattr(field, "is_repeated", None)
    return value if isinstance(value, bool) else field.label == FieldDescriptor.LABEL_REPEATED


def is_map(field):
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def with_numbers(value, descriptor):
    """The dict of a message with its 64-bit integers as int instead of str."""
    result = {}
    for name, item in value.items():
        field = descriptor.fields_by_name[name]
        if is_map(field):
            entry = field.message_type.fields_by_name["value"]
            if entry.message_type is not None:
                item = {k: with_numbers(v, entry.message_type) for k, v in item.items()}
        elif field.message_type is not None:
            if is_repeated(field):
                item = [with_numbers(v, field.message_type) for v in item]
            else:
                item = with_numbers(item, field.message_type)
        elif field.type in INT64:
            item = [int(v) for v in item] if is_repeated(field) else int(item)
        result[name] = item
    return result


def as_dict(message):
    options = {"preserving_proto_field_name": True}
    try:
        value = json_format.MessageToDict(message, always_print_fields_with_no_presence=True, **options)
    except TypeError:  # protobuf before 5
        value = json_format.MessageToDict(message, including_default_value_fields=True, **options)
    return with_numbers(value, message.DESCRIPTOR)


def protobuf_reads(text):
    return as_dict(text_format.Parse(text, model_config_pb2.ModelConfig()))


def we_read(text):
    return json.loads(config_to_json(text, "config.pbtxt"))


STRINGS = [
    "",
    "a",
    "model.py",
    "it's",
    'a "quote"',
    "back\\slash",
    "line\nbreak",
    "\t\0\x7f",
    "ünï",
    "模型",
    "🚢",
    "#{}<>",
]
INTEGERS = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
}


def random_scalar(field, rng):
    if field.type in INTEGERS:
        low, high = INTEGERS[field.type]
        return rng.choice([low, high, 0, 1, rng.randint(low, high)])
    if field.type == FieldDescriptor.TYPE_BOOL:
        return rng.random() < 0.5
    if field.type == FieldDescriptor.TYPE_ENUM:
        return rng.choice(field.enum_type.values).number
    if field.type == FieldDescriptor.TYPE_STRING:
        return "".join(rng.choice(STRINGS) for _ in range(rng.randint(0, 3)))
    single = struct.unpack("<f", struct.pack("<f", rng.uniform(-1e6, 1e6) * 10.0 ** rng.randint(-20, 20)))[0]
    return rng.choice([0.0, 0.1, 1.0, 1e-40, 3e38, float("inf"), float("-inf"), float("nan"), single])


def fill(message, rng, share):
    """Sets a random part of the fields of a message, all the way down."""
    for field in message.DESCRIPTOR.fields:
        if rng.random() > share:
            continue
        if is_map(field):
            key = field.message_type.fields_by_name["key"]
            entry = field.message_type.fields_by_name["value"]
            target = getattr(message, field.name)
            for _ in range(rng.randint(1, 3)):
                if entry.message_type is None:
                    target[random_scalar(key, rng)] = random_scalar(entry, rng)
                else:
                    fill(target[random_scalar(key, rng)], rng, share)
        elif field.message_type is not None:
            if is_repeated(field):
                for _ in range(rng.randint(1, 3)):
                    fill(getattr(message, field.name).add(), rng, share)
            else:
                getattr(message, field.name).SetInParent()
                fill(getattr(message, field.name), rng, share)
        elif is_repeated(field):
            getattr(message, field.name).extend(random_scalar(field, rng) for _ in range(rng.randint(1, 4)))
        else:
            setattr(message, field.name, random_scalar(field, rng))


def printed(message, rng):
    return text_format.MessageToString(
        message,
        as_utf8=rng.random() < 0.5,
        as_one_line=rng.random() < 0.3,
        use_short_repeated_primitives=rng.random() < 0.5,
        pointy_brackets=rng.random() < 0.3,
        use_index_order=rng.random() < 0.5,
    )


def test_the_schemas_have_the_same_fields_with_the_same_defaults():
    assert we_read("") == protobuf_reads("")


def schema_paths(descriptor, prefix=""):
    for field in descriptor.fields:
        yield prefix, field
        if field.message_type is not None:
            yield from schema_paths(field.message_type, f"{prefix}{field.name} {{ ")


def test_every_field_of_the_schema_is_read_as_protobuf_reads_it():
    samples = {
        FieldDescriptor.TYPE_BOOL: "true",
        FieldDescriptor.TYPE_STRING: '"s"',
        FieldDescriptor.TYPE_FLOAT: "0.5",
        FieldDescriptor.TYPE_DOUBLE: "0.1",
        FieldDescriptor.TYPE_MESSAGE: "{}",
    }
    count = 0
    for prefix, field in schema_paths(model_config_pb2.ModelConfig.DESCRIPTOR):
        if field.type == FieldDescriptor.TYPE_ENUM:
            values = [v.name for v in field.enum_type.values] + [str(v.number) for v in field.enum_type.values]
        else:
            values = [samples.get(field.type, "7")]
        for value in values:
            text = f"{prefix}{field.name}: {value}" + " }" * prefix.count("{")
            assert we_read(text) == protobuf_reads(text), text
            count += 1
    assert count > 200


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_config_is_read_as_protobuf_reads_it(seed):
    rng = random.Random(seed)
    message = model_config_pb2.ModelConfig()
    fill(message, rng, rng.choice([0.2, 0.4, 0.6]))
    text = printed(message, rng)
    assert normal(we_read(text)) == normal(protobuf_reads(text)), text


def normal(value):
    """Comparable: protobuf rounds some floats to 6 or 8 digits where we show the shortest that is exact."""
    if isinstance(value, dict):
        return {k: normal(v) for k, v in value.items()}
    if isinstance(value, list):
        return [normal(v) for v in value]
    if not isinstance(value, float):
        return value
    single = struct.unpack("<f", struct.pack("<f", value))[0] if abs(value) < 3.4e38 else value
    return float(f"{single:.6g}")


SAME = {
    "comments": "# first\nname: 'm' # second\n#last",
    "no separators": "name:'m'max_batch_size:8",
    "separators": "name: 'm', max_batch_size: 8; input { name: 'a', dims: [1]; };",
    "strings that join": "name: 'a' \"b\"\n  # between\n 'c'",
    "escapes": r"name: '\a\b\f\n\r\t\v\'\"\\\101\7\x41\xe2\x82\xac'",
    "unicode escapes": r"name: '\u00e9\U0001F6A2'",
    "lists": "input [ { name: 'a' dims: [ -1, 0x10, 010 ] }, < name: 'b' dims: [] > ]",
    "elements one by one": "input { dims: 1 dims: [2, 3] dims: 4 }",
    "colon before a message": "input: { name: 'a' } output: < name: 'b' >",
    "enums": "input { data_type: TYPE_FP32 } input { data_type: 11 } input { data_type: 0xb }",
    "booleans": "input { optional: true } input { optional: True } input { optional: t } input { optional: 1 }"
    " input { optional: false } input { optional: False } input { optional: f } input { optional: 0 }",
    "floats": "sequence_batching { direct { minimum_slot_utilization: 1.5e-3 } }",
    "float suffix": "sequence_batching { direct { minimum_slot_utilization: 2.5f } }",
    "float from an integer": "sequence_batching { direct { minimum_slot_utilization: 3 } }",
    "float without digits before the point": "sequence_batching { direct { minimum_slot_utilization: .5 } }",
    "float too large": "sequence_batching { direct { minimum_slot_utilization: 1e50 } }",
    "float too small": "sequence_batching { direct { minimum_slot_utilization: 1e-60 } }",
    "infinity": "sequence_batching { direct { minimum_slot_utilization: -INF } }",
    "infinity spelled out": "sequence_batching { direct { minimum_slot_utilization: infinity } }",
    "not a number": "sequence_batching { direct { minimum_slot_utilization: NaN } }",
    "maps": "parameters { key: 'a' value { string_value: '1' } } parameters [ { key: 'b' }, { value {} } ]",
    "equal keys": "metric_tags { key: 'a' value: '1' } metric_tags { key: 'a' value: '2' }",
    "numeric keys": "dynamic_batching { priority_queue_policy { key: 3 value { max_queue_size: 1 } } }",
    "an empty message in a oneof": "version_policy { all {} }",
    "limits": "max_batch_size: -2147483648 input { dims: [9223372036854775807, -9223372036854775808] }",
    "blanks": "\t\v\f\r\nname\t:\r\n'm'\f",
}


@pytest.mark.parametrize("text", SAME.values(), ids=SAME.keys())
def test_syntax_is_read_as_protobuf_reads_it(text):
    assert we_read(text) == protobuf_reads(text)


BOTH_REFUSE = {
    "unknown field": "nme: 'm'",
    "field of another message": "input { max_batch_size: 1 }",
    "missing colon": "name 'm'",
    "missing value": "name:",
    "value of another type": "name: 3",
    "string for a number": "max_batch_size: '3'",
    "fraction for an integer": "max_batch_size: 3.0",
    "integer too large": "max_batch_size: 2147483648",
    "negative unsigned": "dynamic_batching { max_queue_delay_microseconds: -1 }",
    "64 bits exceeded": "input { dims: 9223372036854775808 }",
    "unknown enum": "input { data_type: TYPE_FP31 }",
    "boolean out of range": "input { optional: 2 }",
    "boolean misspelled": "input { optional: TRUE }",
    "not closed": "input { name: 'a'",
    "closed too often": "input { } }",
    "closed by the other bracket": "input { >",
    "string not closed": "name: 'm",
    "string over two lines": "name: 'm\nn'",
    "bad utf-8 by escapes": r"name: '\377'",
    "list for a single value": "name: ['m']",
    "list not closed": "input { dims: [1, 2 }",
    "list without commas": "input { dims: [1 2] }",
    "bad octal": "max_batch_size: 09",
    "given twice": "name: 'a' name: 'b'",
    "message given twice": "dynamic_batching {} dynamic_batching {}",
    "two of a oneof": "version_policy { all {} latest {} }",
    "extension": "[foo.bar]: 1",
    "two separators": "name: 'm',, max_batch_size: 1",
    "hexadecimal float": "sequence_batching { direct { minimum_slot_utilization: 0x10 } }",
}


@pytest.mark.parametrize("text", BOTH_REFUSE.values(), ids=BOTH_REFUSE.keys())
def test_what_protobuf_refuses_is_refused_with_file_line_and_column(text):
    with pytest.raises(text_format.ParseError):
        protobuf_reads(text)
    with pytest.raises(Exception, match=r"config\.pbtxt:\d+:\d+: error: "):
        config_to_json(text, "config.pbtxt")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_damaged_config_is_read_alike_or_refused_by_us(seed):
    """We may be stricter than protobuf, but what we accept means the same to both."""
    rng = random.Random(1000 + seed)
    message = model_config_pb2.ModelConfig()
    fill(message, rng, 0.25)
    tokens = re.findall(r"\"(?:[^\"\\]|\\.)*\"|\w+|\s+|.", printed(message, rng))
    for _ in range(rng.randint(1, 3)):
        index = rng.randrange(len(tokens) + 1)
        change = rng.choice(["drop", "insert", "double"])
        if change == "insert" or index == len(tokens):
            tokens.insert(index, rng.choice([*list("{}<>[]:,;-#'\"\n"), "0x", "1.", "e5", "name", "true", "\\"]))
        elif change == "drop":
            del tokens[index]
        else:
            tokens.insert(index, tokens[index])
    text = "".join(tokens)
    try:
        ours = we_read(text)
    except Exception as error:
        assert re.search(r"config\.pbtxt:\d+:\d+: error: ", str(error)), error  # noqa: PT017  (either outcome is fine)
        return
    assert normal(ours) == normal(protobuf_reads(text)), text
