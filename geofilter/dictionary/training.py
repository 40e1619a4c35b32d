"""The training itself: sae-lens' SAE and step, with a state that can be kept and gone on with.

TopK (Gao et al. 2024, arXiv 2406.04093) or BatchTopK (Bussmann et al. 2024, arXiv 2412.06410), with the auxiliary loss
that revives dead features. Vectors are scaled to a mean norm of sqrt(d_in); the scale is folded into the weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from geofilter.dictionary.config import SaeConfig
from geofilter.errors import InputError, RunError
from geofilter.files import atomic

WARM_UP = 100
"""steps, a tenth of all at most"""
DEAD_SHARE, DEAD_LEAST, DEAD_MOST = 25, 50_000, 10_000_000
"""a feature is dead that was not active in a twenty-fifth of the training's tokens, within these limits"""
STATE = "state.pt"


class Training:
    """An SAE that is being trained.

    Args:
        steps: of the whole training.
        batch: tokens in a step, on average.
        device: where it is trained.
        autocast: multiply matrices in bfloat16.
    """

    def __init__(
        self, config: SaeConfig, d_in: int, steps: int, batch: int, device: torch.device, autocast: bool
    ) -> None:
        from sae_lens import (
            BatchTopKTrainingSAE,
            BatchTopKTrainingSAEConfig,
            TopKTrainingSAE,
            TopKTrainingSAEConfig,
        )
        from sae_lens.config import SAETrainerConfig
        from sae_lens.training.sae_trainer import SAETrainer

        kinds = {
            "topk": (TopKTrainingSAE, TopKTrainingSAEConfig),
            "batchtopk": (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig),
        }
        sae, sae_config = kinds[config.architecture]
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(config.seed)  # on the CPU always: the same first weights on every device
            self.sae: Any = sae(
                sae_config(d_in=d_in, d_sae=config.d_sae, k=config.k, normalize_activations="expected_average_only_in")
            )
        self.sae.to(device)
        lr, warm_up = config.learning_rate, min(WARM_UP, steps // 10)
        dead = min(DEAD_MOST, max(DEAD_LEAST, steps * batch // DEAD_SHARE))
        self.trainer: Any = SAETrainer(
            SAETrainerConfig(
                total_training_samples=steps * batch,
                train_batch_size_samples=batch,
                lr=lr,
                lr_end=lr / 10,
                lr_warm_up_steps=warm_up if warm_up > 1 else 0,
                lr_decay_steps=steps // 4,
                device=str(device),
                autocast=autocast,
                dead_feature_window=max(1, dead // batch),
            ),
            self.sae,
            iter(()),
        )
        self.device, self.d_in, self.steps = device, d_in, steps
        self.chunk = self.done = 0
        """the chunk that is trained on, and the steps done of it"""
        self.tokens = 0
        """seen"""
        self.seconds = 0.0
        """spent in all, over every call"""
        self._loss, self._left, self._variance = (torch.zeros((), device=device) for _ in range(3))
        self._recent = 0

    def begin(self, x: torch.Tensor) -> None:
        """Scale and centre a training that has not begun, by some of its vectors (n, d_in)."""
        sample = x[:: max(1, len(x) // 65_536)].float()  # of all lengths: short rows come first
        scale = float(self.d_in**0.5 / sample.norm(dim=-1).mean())
        self.trainer.activation_scaler.scaling_factor = scale
        self.sae.b_dec.data = (sample.mean(0) * scale).to(self.sae.b_dec)

    def step(self, x: torch.Tensor) -> None:
        """One step on vectors (n, d_in)."""
        out = self.trainer.step(x.to(self.device, torch.float32))
        self.trainer.n_training_steps += 1
        self.tokens += len(x)
        self._recent += len(x)
        # Summed on the device: nothing is asked back before someone wants to know.
        with torch.no_grad():
            x_in = out.sae_in.float()
            self._left += (out.sae_out.float() - x_in).square().sum()
            self._variance += (x_in - x_in.mean(0)).square().sum()
            self._loss += out.loss.detach().float()

    def figures(self) -> dict[str, float]:
        """Explained variance and active features a token since the last call, and dead features now.

        Raises:
            RunError: the loss is not finite any more.
        """
        if not self._loss.isfinite():
            raise RunError(
                f"the training has diverged: its loss is not finite after {self.tokens:,} tokens; give a smaller --lr, "
                "and another --out"
            )
        active = float(self.trainer.act_freq_scores.sum()) / max(1, self._recent)
        out = {
            "explained_variance": 1 - float(self._left) / max(1e-30, float(self._variance)),
            "l0": active,
            "dead": float(self.trainer.dead_neurons.sum()),
        }
        self._left.zero_()
        self._variance.zero_()
        self.trainer.act_freq_scores.zero_()
        self._recent = 0
        return out

    def save(self, folder: Path) -> None:
        """Keep the state: whole, in the place of the last one, or not at all.

        Raises:
            InputError: it cannot be written; the last one is still there.
            RunError: see `figures`.
        """
        if not self._loss.isfinite():
            self.figures()
        trainer = self.trainer
        state = {
            "sae": self.sae.state_dict(),
            "optimizer": trainer.optimizer.state_dict(),
            "schedule": trainer.lr_scheduler.state_dict(),
            "passes_since_fired": trainer.n_forward_passes_since_fired,
            "fired": trainer.act_freq_scores,
            "sums": [self._loss, self._left, self._variance],
            "counts": [trainer.n_training_steps, trainer.n_training_samples, self._recent],
            "scale": trainer.activation_scaler.scaling_factor,
            "at": [self.chunk, self.done, self.tokens],
            "seconds": self.seconds,
        }
        try:
            with atomic(folder / STATE) as handle:
                torch.save(state, handle)
        except (OSError, RuntimeError) as error:  # torch has its own error for a file that cannot be written
            why = getattr(error, "strerror", None) or "is the disk full?"
            raise InputError(
                f"{folder / STATE}: cannot be written ({why}); free some space: the same command then goes on from the "
                "state before"
            ) from None

    def load(self, folder: Path) -> bool:
        """Go on from the state that was kept; False where there is none.

        Raises:
            RunError: it is damaged.
        """
        path = folder / STATE
        if not path.is_file():
            return False
        trainer = self.trainer
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            self.sae.load_state_dict(state["sae"])
            trainer.optimizer.load_state_dict(state["optimizer"])
            trainer.lr_scheduler.load_state_dict(state["schedule"])
            trainer.n_forward_passes_since_fired.copy_(state["passes_since_fired"])
            trainer.act_freq_scores.copy_(state["fired"])
            self._loss, self._left, self._variance = (t.to(self.device) for t in state["sums"])
            trainer.n_training_steps, trainer.n_training_samples, self._recent = state["counts"]
            trainer.activation_scaler.scaling_factor = state["scale"]
            self.chunk, self.done, self.tokens = state["at"]
            self.seconds = float(state["seconds"])
        except Exception as error:  # whatever torch raises on a file that is not what it should be
            raise RunError(
                f"{path}: damaged ({str(error).splitlines()[0][:80] if str(error) else type(error).__name__}); delete "
                "it to begin the training anew"
            ) from None
        return True

    @torch.no_grad()
    def finish(self) -> tuple[dict[str, torch.Tensor], dict[str, Any], torch.Tensor]:
        """The trained SAE, for vectors as the model has them; nothing can be trained after it.

        Returns:
            weights on the CPU, configuration, and (d_sae,) features that were not active of late.
        """
        scaler = self.trainer.activation_scaler
        if scaler.scaling_factor is not None:
            self.sae.fold_activation_norm_scaling_factor(scaler.scaling_factor)
            scaler.scaling_factor = None
        weights = self.sae.state_dict()
        self.sae.process_state_dict_for_saving_inference(weights)
        # The decoder norms by which features were chosen have been folded in.
        cfg = {**self.sae.cfg.get_inference_sae_cfg_dict(), "normalize_activations": "none"}
        if "rescale_acts_by_decoder_norm" in cfg:
            cfg["rescale_acts_by_decoder_norm"] = False
        dead = self.trainer.n_forward_passes_since_fired >= min(self.trainer.cfg.dead_feature_window, self.steps)
        return {k: v.detach().float().cpu().contiguous() for k, v in weights.items()}, cfg, dead.cpu()
