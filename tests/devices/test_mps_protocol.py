"""What the daemon of NVIDIA MPS says, as its own programs printed it."""

from __future__ import annotations

import pytest

from esen_lab.devices.cuda.mps_protocol import answer_in, explained, own_words, servers_ended, without_mps

LOG = """[2026-11-28 21:09:04.348 Control 21860] Starting control daemon using socket /tmp/x/control
[2026-11-28 21:09:04.348 Control 21860] To connect CUDA applications to this daemon, set env X=/tmp/x
[2026-11-28 21:09:05.057 Control 21860] Accepting connection...
[2026-11-28 21:09:05.057 Control 21860] NEW UI
[2026-11-28 21:09:05.057 Control 21860] Cmd:start_server -uid 0
[2026-11-28 21:09:05.057 Control 21875] Starting new server 21875 for user 0
[2026-11-28 21:09:05.058 Control 21860] Server 21875 exited with status 803
[2026-11-28 21:09:05.058 Control 21860] Removed Shm file at
[2026-11-28 21:09:05.058 Control 21860] 100.0
[2026-11-28 21:09:05.058 Control 21860] UI closed
"""


@pytest.mark.parametrize(
    ("printed", "answer"),
    [
        ("100.0\n", ""),
        ("21297\n100.0\n", "21297"),
        (
            "Server 4242 not found\nServer 4242 not found!\n1\n30.0\n",
            "Server 4242 not found\nServer 4242 not found!\n1",
        ),
        ("", None),
        ("21297\n", None),
        ("21297\nACT", None),
    ],
)
def test_an_answer_ends_with_a_number_that_was_asked_for_last(printed: str, answer: str | None) -> None:
    assert answer_in(printed) == answer


def test_the_daemons_own_words_are_kept_without_its_noise_and_a_status_is_explained() -> None:
    words = own_words(LOG)
    assert words == (
        "Starting control daemon using socket /tmp/x/control; Starting new server 21875 for user 0; "
        "Server 21875 exited with status 803"
    )
    assert servers_ended(words) == {"21875"}
    assert explained(words).endswith("(CUDA_ERROR_SYSTEM_DRIVER_MISMATCH: driver and libcuda differ in version)")
    assert explained("Server 5 exited with status 1") == "Server 5 exited with status 1", (
        "no number of CUDA's that helps"
    )


def test_what_mps_reads_is_taken_out_of_an_environment() -> None:
    assert without_mps({"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "50", "CUDA_VISIBLE_DEVICES": "0"}) == {
        "CUDA_VISIBLE_DEVICES": "0"
    }
