"""Look every installed package up in the advisory databases that pip-audit knows; skipped where none can be reached.

Exit code 1 only for a known vulnerability that a newer version fixes. A database that cannot be reached, or that knows
nothing of an old version with well-known advisories, is no reason to fail: one line says so.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

CANARY = "requests==2.19.0"  # CVE-2018-18074 and others: a database that lists none for it is not one
SERVICES = ("osv", "pypi")
SECONDS = 300


def audit(service: str, *arguments: str) -> list[dict[str, object]] | None:
    """Packages with vulnerabilities, or None when the service cannot be asked."""
    command = [sys.executable, "-m", "pip_audit", "-s", service, "-f", "json", "--progress-spinner", "off", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        return [package for package in json.loads(done.stdout)["dependencies"] if package.get("vulns")]
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        return None


def reachable() -> str | None:
    """A service that knows the canary's vulnerabilities."""
    with tempfile.TemporaryDirectory() as folder:
        canary = Path(folder, "canary.txt")
        canary.write_text(f"{CANARY}\n")
        return next((name for name in SERVICES if audit(name, "-r", str(canary), "--no-deps", "--disable-pip")), None)


def main() -> int:
    """Print what was found; the exit code."""
    if subprocess.run([sys.executable, "-m", "pip_audit", "--version"], capture_output=True, check=False).returncode:
        print("dependency audit: skipped: pip-audit is not installed (pip install -e '.[test]')")
        return 0
    service = reachable()
    if service is None:
        print(f"dependency audit: skipped: no advisory database can be reached from here (tried {', '.join(SERVICES)})")
        return 0
    found = audit(service, "--skip-editable")
    if found is None:
        print(f"dependency audit: skipped: {service} stopped answering")
        return 0
    fixable = 0
    for package in found:
        for vulnerability in package["vulns"]:  # type: ignore[attr-defined]
            fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
            fixable += bool(vulnerability["fix_versions"])
            print(f"dependency audit: {package['name']} {package['version']}: {vulnerability['id']}, fixed in {fixed}")
    print(f"dependency audit: {len(found)} packages with known vulnerabilities ({service}), {fixable} can be fixed")
    return int(fixable > 0)


if __name__ == "__main__":
    sys.exit(main())
