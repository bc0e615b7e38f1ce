"""A ClientApp that does what its node config says, for grids in tests."""

import os
import time
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.query()
def query(message: Message, context: Context) -> Message:
    config = {key: str(value) for key, value in context.node_config.items()}
    match config.get("do"):
        case "raise":
            raise ValueError("MUELLER^ANNA")
        case "die":
            os._exit(3)
        case "hang":
            time.sleep(600)
        case "meet":  # goes on only where another site works at the same time
            Path(config["mine"]).touch()
            while not Path(config["other"]).exists():
                time.sleep(0.01)
        case "fill":
            bytearray(b"x") * 1_200_000_000
    said = ConfigRecord({"name": config["name"], "pid": os.getpid()})
    return Message(RecordDict({"said": said}), reply_to=message)
