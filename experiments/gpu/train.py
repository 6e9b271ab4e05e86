"""A training that may be killed: FOLDER STEPS DEVICE. It leaves FOLDER/final.pt."""

import sys
from pathlib import Path

import torch
from made import batches_of, fit_of, method_of, tiles

if __name__ == "__main__":
    folder, steps, device = Path(sys.argv[1]), int(sys.argv[2]), torch.device(sys.argv[3])
    method, cfg = method_of("simclr", 3)
    batches = batches_of(tiles(folder.parent, 64, 3, 64), method, cfg, 32, 16, steps, device)
    fit_of(method, batches, device, folder, checkpoint_minutes=0.0).run()
    torch.save(method.state_dict(), folder / "final.pt")
