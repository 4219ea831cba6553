"""``make generate``: writes every generated file that is out of date."""

from hack.generate import generated

for path, content in generated().items():
    if not path.exists() or path.read_text() != content:
        path.write_text(content)
        print(f"written: {path}")
