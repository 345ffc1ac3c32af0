"""A LoRA adapter merged into its base model: a folder like any other, for whatever knows no adapters.

    python tools/merge.py runs/qwen3-1.7b-masa-0/checkpoint merged/
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from lab.adapter import base_of
from lab.command import command_line
from lab.policy import load_policy


def merge(folder, out, trust_remote_code=False):
    """Write model and tokenizer of the adapter in `folder` to a new folder `out`, in float32."""
    if not base_of(folder):
        raise ValueError(f"{folder} holds no adapter (adapter_config.json)")
    if Path(out).exists():
        raise ValueError(f"{out} is there already: choose another folder")
    for part in load_policy(folder, trust_remote_code=trust_remote_code):
        part.save_pretrained(out)
    print(f"The merged model is in {out}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", help="the adapter: a checkpoint of masa.py --lora-rank, or one of peft")
    parser.add_argument("out", help="the folder to write")
    parser.add_argument("--trust-remote-code", action="store_true", help="as of masa.py")
    given = parser.parse_args()
    command_line("merge.py", lambda: merge(given.folder, given.out, given.trust_remote_code))
