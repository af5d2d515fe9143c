"""Tensors in safetensors files, without the package of that name."""
import json

import torch

TYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64, "I64": torch.int64, "U8": torch.uint8}
NAMES = {dtype: name for name, dtype in TYPES.items()}


def read(path):
    content = bytearray(path.read_bytes())
    begin = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:begin])
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        dtype, (first, last) = TYPES[entry["dtype"]], entry["data_offsets"]
        count = (last - first) // dtype.itemsize
        flat = torch.frombuffer(content, dtype=dtype, count=count, offset=begin + first) if count else torch.empty(0, dtype=dtype)
        found[name] = flat.reshape(entry["shape"])
    return found


def write(path, tensors):
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header, end = {}, 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
