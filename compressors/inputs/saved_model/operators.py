"""The operators of TensorFlow that a SavedModel may hold: those that compute, and those that keep its variables."""

from __future__ import annotations

_MATHS = """
Abs Add AddN AddV2 All Any ArgMax ArgMin AvgPool BatchMatMul BatchMatMulV2 BatchMatMulV3 BiasAdd BiasAddV1 Cast Ceil
ClipByValue Conv1D Conv2D Conv2DBackpropInput Conv3D Cos Cumsum DepthwiseConv2dNative Div DivNoNan Einsum Elu Equal Erf
Exp Expm1 Floor FloorDiv FloorMod FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 Greater GreaterEqual IsFinite IsInf
IsNan L2Loss LRN LeakyRelu Less LessEqual Log Log1p LogSoftmax LogicalAnd LogicalNot LogicalOr MatMul Max MaxPool
MaxPoolV2 Maximum Mean Min Minimum Mod Mul MulNoNan Neg NotEqual OnesLike Pow Prod RealDiv Reciprocal Relu Relu6 Round
Rsqrt Rint Select SelectV2 Selu Sigmoid Sign Sin Softmax Softplus Softsign Sqrt Square SquaredDifference Sub Sum Tan
Tanh TruncateDiv Xdivy ZerosLike
"""
_SHAPES = """
BatchToSpaceND BroadcastArgs BroadcastTo Concat ConcatV2 Const DepthToSpace EnsureShape ExpandDims Fill Gather GatherNd
GatherV2 Identity IdentityN InvertPermutation LinSpace MatrixDiagV3 MirrorPad NoOp OneHot Pack Pad PadV2 Placeholder
PlaceholderWithDefault PreventGradient Range Rank Reshape ResizeBilinear ResizeNearestNeighbor Reverse ReverseV2 Roll
ScatterNd Shape ShapeN Size Slice Snapshot SpaceToBatchND SpaceToDepth Split SplitV Squeeze StopGradient StridedSlice
Tile TopK TopKV2 Transpose Unpack Where
"""
_FLOW = """
Case If LogicalXor PartitionedCall StatefulPartitionedCall StatelessIf StatelessWhile TensorListFromTensor
TensorListGetItem TensorListLength TensorListReserve TensorListSetItem TensorListStack While
"""
_VARIABLES = "AssignVariableOp DisableCopyOnRead ReadVariableOp ResourceGather VarHandleOp VarIsInitializedOp"

COMPUTING = frozenset(f"{_MATHS} {_SHAPES} {_FLOW} {_VARIABLES}".split())
# only in the two functions that keep the variables in files, see `gate`
FILES = frozenset({"RestoreV2", "SaveV2", "MergeV2Checkpoints", "ShardedFilename"})
KEEPING = FILES | {
    "AssignVariableOp", "Const", "DisableCopyOnRead", "Identity", "NoOp", "Pack", "ReadVariableOp", "Select",
    "StaticRegexFullMatch", "StringJoin", "VarHandleOp",
}  # fmt: skip
