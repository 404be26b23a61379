"""Ray nodes that tests start by Ray's own commands: whether a head answers, and their end."""

import urllib.error
import urllib.request

import psutil


def answers(address):
    """Whether a head's dashboard is up at `http://host:port`."""
    try:
        urllib.request.urlopen(f"{address}/api/version", timeout=2).close()
    except urllib.error.HTTPError:  # 401 without a token: it is up
        return True
    except OSError:
        return False
    return True


def end(processes):
    """Kill these processes and no others: `ray stop` would end every Ray process of the machine."""
    for process in processes:
        process.kill()
    psutil.wait_procs(processes, timeout=120)


def processes_at_home(home):
    """Every process of ours whose HOME is this directory: Ray's daemons keep the environment of `ray start`."""
    ours = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("HOME") == str(home):
                ours.append(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return ours
