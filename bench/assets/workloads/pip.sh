# shellcheck shell=bash
prepare() {
    python3 - <<'END'
import zipfile
with zipfile.ZipFile("tiny-1.0-py3-none-any.whl", "w") as wheel:
    for number in range(50):
        wheel.writestr(f"tiny/part_{number}.py", f"VALUE = {number}\n")
    parts = "".join(f"from .part_{n} import VALUE as V{n}\n" for n in range(50))
    values = ", ".join(f"V{n}" for n in range(50))
    wheel.writestr("tiny/__init__.py", f"{parts}TOTAL = sum([{values}])\n")
    info = "tiny-1.0.dist-info/"
    wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
    wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(info + "RECORD", "")
END
}

work() {
    local pip=(pip3 --quiet --no-cache-dir --disable-pip-version-check)
    "${pip[@]}" install --no-index --root-user-action=ignore --target=site \
        "$IN/tiny-1.0-py3-none-any.whl"
    PYTHONPATH=site python3 -c 'import tiny; print(tiny.TOTAL)'
    PYTHONPATH=site "${pip[@]}" list --path=site
    find site -name '*.pyc' | wc -l
    mkdir keep
    cp site/tiny/*.py keep
}
