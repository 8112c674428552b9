"""The benchmark's model inside MLServer: the same LiteRT interpreter behind MLServer's own custom runtime."""

from __future__ import annotations

from typing import Any

from ai_edge_litert.interpreter import Interpreter
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class LiteRtModel(MLModel):  # type: ignore[misc]  # MLServer ships no types
    """Loads a `.tflite` file and runs it, as little as MLServer allows in between."""

    async def load(self) -> bool:
        """Load the file that `model-settings.json` names."""
        self._interpreter: Any = Interpreter(model_path=self.settings.parameters.uri, num_threads=1)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._output = self._interpreter.get_output_details()[0]["index"]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Run one request."""
        values = NumpyCodec.decode_input(payload.inputs[0])
        self._interpreter.set_tensor(self._input, values)
        self._interpreter.invoke()
        scores = self._interpreter.get_tensor(self._output)
        output = NumpyCodec.encode_output(name="scores", payload=scores)
        return InferenceResponse(id=payload.id, model_name=self.name, model_version=self.version, outputs=[output])
