"""Names of torch and of its libraries that honest checkpoints hold, each harmless whatever it is called with.

Made once from torch 2.13 (every class of `torch.nn.modules`, `torch.optim` and the observers of `torch.ao`), from
what each library declares safe to torch, and from files that the libraries wrote. Not here, though files name them:
classes that start something when they are built, open files, or import what they are told to.
"""

from __future__ import annotations

# (reason, module, names): a row for each module.
TORCH_FAMILIES: tuple[tuple[str, str, str], ...] = (
    ("a module of a saved network", "torch.nn.modules.activation", "CELU ELU GELU GLU Hardshrink Hardsigmoid "
     "Hardswish Hardtanh LeakyReLU LogSigmoid LogSoftmax Mish MultiheadAttention PReLU RReLU ReLU ReLU6 SELU SiLU "
     "Sigmoid Softmax Softmax2d Softmin Softplus Softshrink Softsign Tanh Tanhshrink Threshold"),
    ("a module of a saved network", "torch.nn.modules.adaptive", "AdaptiveLogSoftmaxWithLoss"),
    ("a module of a saved network", "torch.nn.modules.batchnorm", "BatchNorm1d BatchNorm2d BatchNorm3d "
     "LazyBatchNorm1d LazyBatchNorm2d LazyBatchNorm3d SyncBatchNorm _BatchNorm _LazyNormBase _NormBase"),
    ("a module of a saved network", "torch.nn.modules.channelshuffle", "ChannelShuffle"),
    ("a module of a saved network", "torch.nn.modules.container", "Container ModuleDict ModuleList ParameterDict "
     "ParameterList Sequential"),
    ("a module of a saved network", "torch.nn.modules.conv", "Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d "
     "ConvTranspose3d LazyConv1d LazyConv2d LazyConv3d LazyConvTranspose1d LazyConvTranspose2d LazyConvTranspose3d "
     "_ConvNd _ConvTransposeMixin _ConvTransposeNd"),
    ("a module of a saved network", "torch.nn.modules.distance", "CosineSimilarity PairwiseDistance"),
    ("a module of a saved network", "torch.nn.modules.dropout", "AlphaDropout Dropout Dropout1d Dropout2d Dropout3d "
     "FeatureAlphaDropout _DropoutNd"),
    ("a module of a saved network", "torch.nn.modules.flatten", "Flatten Unflatten"),
    ("a module of a saved network", "torch.nn.modules.fold", "Fold Unfold"),
    ("a module of a saved network", "torch.nn.modules.instancenorm", "InstanceNorm1d InstanceNorm2d InstanceNorm3d "
     "LazyInstanceNorm1d LazyInstanceNorm2d LazyInstanceNorm3d _InstanceNorm"),
    ("a module of a saved network", "torch.nn.modules.linear", "Bilinear Identity LazyLinear Linear "
     "NonDynamicallyQuantizableLinear"),
    ("a module of a saved network", "torch.nn.modules.loss", "BCELoss BCEWithLogitsLoss CTCLoss CosineEmbeddingLoss "
     "CrossEntropyLoss GaussianNLLLoss HingeEmbeddingLoss HuberLoss KLDivLoss L1Loss LinearCrossEntropyLoss MSELoss "
     "MarginRankingLoss MultiLabelMarginLoss MultiLabelSoftMarginLoss MultiMarginLoss NLLLoss NLLLoss2d "
     "PoissonNLLLoss SmoothL1Loss SoftMarginLoss TripletMarginLoss TripletMarginWithDistanceLoss _Loss _WeightedLoss"),
    ("a module of a saved network", "torch.nn.modules.module", "Module"),
    ("a module of a saved network", "torch.nn.modules.normalization", "CrossMapLRN2d GroupNorm LayerNorm "
     "LocalResponseNorm RMSNorm"),
    ("a module of a saved network", "torch.nn.modules.padding", "CircularPad1d CircularPad2d CircularPad3d "
     "ConstantPad1d ConstantPad2d ConstantPad3d ReflectionPad1d ReflectionPad2d ReflectionPad3d ReplicationPad1d "
     "ReplicationPad2d ReplicationPad3d ZeroPad1d ZeroPad2d ZeroPad3d _CircularPadNd _ConstantPadNd _ReflectionPadNd "
     "_ReplicationPadNd"),
    ("a module of a saved network", "torch.nn.modules.pixelshuffle", "PixelShuffle PixelUnshuffle"),
    ("a module of a saved network", "torch.nn.modules.pooling", "AdaptiveAvgPool1d AdaptiveAvgPool2d "
     "AdaptiveAvgPool3d AdaptiveMaxPool1d AdaptiveMaxPool2d AdaptiveMaxPool3d AvgPool1d AvgPool2d AvgPool3d "
     "FractionalMaxPool2d FractionalMaxPool3d LPPool1d LPPool2d LPPool3d MaxPool1d MaxPool2d MaxPool3d MaxUnpool1d "
     "MaxUnpool2d MaxUnpool3d _AdaptiveAvgPoolNd _AdaptiveMaxPoolNd _AvgPoolNd _LPPoolNd _MaxPoolNd _MaxUnpoolNd"),
    ("a module of a saved network", "torch.nn.modules.rnn", "GRU GRUCell LSTM LSTMCell RNN RNNBase RNNCell "
     "RNNCellBase"),
    ("a module of a saved network", "torch.nn.modules.sparse", "Embedding EmbeddingBag"),
    ("a module of a saved network", "torch.nn.modules.transformer", "Transformer TransformerDecoder "
     "TransformerDecoderLayer TransformerEncoder TransformerEncoderLayer"),
    ("a module of a saved network", "torch.nn.modules.upsampling", "Upsample UpsamplingBilinear2d UpsamplingNearest2d"),
    ("an optimizer", "torch.optim", "Adafactor Muon"),
    ("an optimizer", "torch.optim.adadelta", "Adadelta"),
    ("an optimizer", "torch.optim.adagrad", "Adagrad"),
    ("an optimizer", "torch.optim.adam", "Adam"),
    ("an optimizer", "torch.optim.adamax", "Adamax"),
    ("an optimizer", "torch.optim.adamw", "AdamW"),
    ("an optimizer", "torch.optim.asgd", "ASGD"),
    ("an optimizer", "torch.optim.lbfgs", "LBFGS"),
    ("a schedule", "torch.optim.lr_scheduler", "ChainedScheduler ConstantLR CosineAnnealingLR "
     "CosineAnnealingWarmRestarts CyclicLR ExponentialLR LRScheduler LambdaLR LinearLR MultiStepLR MultiplicativeLR "
     "OneCycleLR PolynomialLR ReduceLROnPlateau SequentialLR StepLR _LRScheduler"),
    ("an optimizer", "torch.optim.nadam", "NAdam"),
    ("an optimizer", "torch.optim.optimizer", "Optimizer"),
    ("an optimizer", "torch.optim.radam", "RAdam"),
    ("an optimizer", "torch.optim.rmsprop", "RMSprop"),
    ("an optimizer", "torch.optim.rprop", "Rprop"),
    ("an optimizer", "torch.optim.sgd", "SGD"),
    ("an optimizer", "torch.optim.sparse_adam", "SparseAdam"),
    ("a schedule", "torch.optim.swa_utils", "AveragedModel SWALR"),
    ("watches ranges for quantization", "torch.ao.quantization.fake_quantize", "FakeQuantize FakeQuantizeBase "
     "FixedQParamsFakeQuantize FusedMovingAvgObsFakeQuantize"),
    ("watches ranges for quantization", "torch.ao.quantization.observer", "AffineQuantizedObserverBase "
     "FixedQParamsObserver HistogramObserver MinMaxObserver MovingAverageMinMaxObserver "
     "MovingAveragePerChannelMinMaxObserver NoopObserver ObserverBase PerChannelMinMaxObserver PlaceholderObserver "
     "RecordingObserver ReuseInputObserver UniformQuantizationObserverBase _ObserverBase default_debug_observer "
     "default_placeholder_observer default_reuse_input_observer"),
    ("watches ranges for quantization", "torch.ao.quantization.stubs", "DeQuantStub QuantStub QuantWrapper"),
    ("a module of a saved network", "torch.nn.parallel.distributed", "DistributedDataParallel"),
    ("a module of a saved network", "torch.nn.parallel.data_parallel", "DataParallel"),
    ("a module of a saved network", "torch.ao.nn.quantized.dynamic.modules.linear", "Linear"),
    ("a module of a saved network", "torch.ao.nn.quantized.modules.linear", "Linear LinearPackedParams"),
    ("a module of a saved network", "torch.nn.quantized.dynamic.modules.linear", "Linear"),
    ("a module of a saved network", "torch.nn.quantized.modules.linear", "Linear LinearPackedParams"),
    ("a schedule", "torch.optim.lr_scheduler", "CyclicLR._triangular_scale_fn CyclicLR._triangular2_scale_fn "
     "CyclicLR._exp_range_scale_fn"),
    ("a norm of a module's weight", "torch.nn.utils.weight_norm", "WeightNorm"),
    ("a norm of a module's weight", "torch.nn.utils.spectral_norm", "SpectralNorm SpectralNormStateDictHook "
     "SpectralNormLoadStateDictPreHook"),
    ("sequences of several lengths", "torch.nn.utils.rnn", "PackedSequence"),
    ("an activation function", "torch.nn.functional", "relu gelu silu elu selu celu mish tanh sigmoid leaky_relu relu6 "
     "softmax log_softmax softplus softsign hardswish hardsigmoid hardtanh logsigmoid glu dropout"),
    ("an activation function", "torch._C._nn", "gelu silu elu_ leaky_relu mish hardswish hardsigmoid softplus relu6"),
    ("an activation function", "torch", "relu tanh sigmoid softmax log_softmax selu celu"),
    ("a loss scale", "torch.amp.grad_scaler", "GradScaler OptState _refresh_per_optimizer_state"),
    ("a loss scale", "torch.cuda.amp.grad_scaler", "GradScaler OptState _refresh_per_optimizer_state"),
    ("a dtype of few bits", "torch", "uint1 uint2 uint3 uint4 uint5 uint6 uint7 int1 int2 int3 int4 int5 int6 int7"),
    ("a plain value of torch", "torch", "per_tensor_symmetric per_channel_symmetric per_channel_affine_float_qparams "
     "sparse_csc sparse_bsr sparse_bsc jagged channels_last_3d _mkldnn"),
    ("a tensor's class", "torch.cuda", "BoolTensor BFloat16Tensor ByteTensor CharTensor DoubleTensor FloatTensor "
     "HalfTensor IntTensor LongTensor ShortTensor"),
    ("a tensor's class", "torch.sparse", "BFloat16Tensor ByteTensor CharTensor DoubleTensor FloatTensor HalfTensor "
     "IntTensor LongTensor ShortTensor"),
    ("a tensor's class", "torch.cuda.sparse", "BFloat16Tensor ByteTensor CharTensor DoubleTensor FloatTensor "
     "HalfTensor IntTensor LongTensor ShortTensor"),
    ("a tensor's storage", "torch.cuda", "BoolStorage BFloat16Storage ByteStorage CharStorage ComplexDoubleStorage "
     "ComplexFloatStorage DoubleStorage FloatStorage HalfStorage IntStorage LongStorage ShortStorage"),
    ("a data set", "torch.utils.data.dataset", "TensorDataset Subset ConcatDataset"),
    ("which data comes next", "torch.utils.data.sampler", "RandomSampler BatchSampler SequentialSampler "
     "WeightedRandomSampler SubsetRandomSampler"),
    ("which data comes next", "torch.utils.data.distributed", "DistributedSampler"),
    ("a tensor cut over several processes", "torch.distributed.tensor", "DTensor"),
    ("a tensor cut over several processes", "torch.distributed.tensor._api", "DTensor"),
    ("a tensor cut over several processes", "torch.distributed._tensor.api", "DTensor"),
    ("how a tensor is cut", "torch.distributed.tensor._dtensor_spec", "DTensorSpec TensorMeta ShardOrderEntry"),
    ("how a tensor is cut", "torch.distributed.tensor.placement_types", "Shard Replicate Partial _StridedShard "
     "_MaskPartial"),
    ("how a tensor is cut", "torch.distributed._tensor.placement_types", "Shard Replicate Partial _Partial DTensorSpec "
     "TensorMeta"),
    ("which processes share a tensor", "torch.distributed.device_mesh", "DeviceMesh"),
    ("which processes share a tensor", "torch.distributed._mesh_layout", "_MeshLayout _FlatLayout"),
    ("a tensor cut over several processes", "torch.distributed._shard.sharded_tensor.api", "ShardedTensor "
     "ShardedTensor.ProcessGroupState"),
    ("a tensor cut over several processes", "torch.distributed._shard.sharded_tensor.shard", "Shard"),
    ("how a tensor is cut", "torch.distributed._shard.sharding_spec.chunk_sharding_spec", "ChunkShardingSpec"),
    ("how a tensor is cut", "torch.distributed._shard.sharding_spec.api", "EnumerableShardingSpec"),
    ("which processes share a tensor", "torch.distributed.remote_device", "_remote_device"),
    ("settings of FSDP", "torch.distributed.fsdp.api", "ShardingStrategy BackwardPrefetch MixedPrecision CPUOffload "
     "StateDictType StateDictConfig FullStateDictConfig ShardedStateDictConfig LocalStateDictConfig "
     "OptimStateDictConfig FullOptimStateDictConfig ShardedOptimStateDictConfig"),
    ("a quantized tensor", "torchao.dtypes.affine_quantized_tensor", "AffineQuantizedTensor"),
    ("a quantized tensor", "torchao.dtypes.nf4tensor", "NF4Tensor SubclassTensorArgs"),
    ("a quantized tensor", "torchao.dtypes.utils", "Layout PlainLayout"),
    ("a quantized tensor", "torchao.dtypes.uintx.plain_layout", "PlainAQTTensorImpl"),
    ("a quantized tensor", "torchao.dtypes.uintx.tensor_core_tiled_layout", "TensorCoreTiledLayout "
     "TensorCoreTiledAQTTensorImpl"),
    ("a quantized tensor", "torchao.dtypes.floatx.float8_layout", "Float8Layout Float8AQTTensorImpl"),
    ("a quantized tensor", "torchao.float8.float8_tensor", "Float8Tensor ScaledMMConfig LinearMMConfig GemmInputRole"),
    ("a quantized tensor", "torchao.float8.float8_training_tensor", "Float8TrainingTensor GemmInputRole "
     "LinearMMConfig ScaledMMConfig"),
    ("a quantized tensor", "torchao.float8.config", "ScalingGranularity"),
    ("a quantized tensor", "torchao.float8.fsdp_utils", "WeightWithDynamicFloat8CastTensor"),
    ("a quantized tensor", "torchao.float8.inference", "Float8MMConfig"),
    ("a moment of few bits", "torchao.optim.subclass_4bit", "OptimState4bit"),
    ("a moment of few bits", "torchao.optim.subclass_8bit", "OptimState8bit"),
    ("a moment of few bits", "torchao.optim.subclass_fp8", "OptimStateFp8"),
    ("a quantized tensor", "torchao.prototype.mx_formats.mx_tensor", "MXTensor QuantizeTensorToMXKwargs"),
    ("a quantized tensor", "torchao.prototype.mx_formats.nvfp4_tensor", "NVFP4Tensor QuantizeTensorToNVFP4Kwargs"),
    ("a quantized tensor", "torchao.prototype.mx_formats.config", "ScaleCalculationMode"),
    ("a quantized tensor", "torchao.quantization", "Float8Tensor Int4PlainInt32Tensor Int4PreshuffledTensor Int4Tensor "
     "Int4TilePackedTo4dTensor Int8Tensor IntxOpaqueTensor IntxUnpackedToInt8Tensor"),
    ("how a tensor is quantized", "torchao.quantization.granularity", "PerBlock PerRow PerTensor PerAxis PerGroup "
     "PerToken"),
    ("how a tensor is quantized", "torchao.quantization.quant_primitives", "MappingType ZeroPointDomain"),
    ("how a tensor is quantized", "torchao.quantization.quantize_.common.kernel_preference", "KernelPreference"),
    ("how a tensor is quantized", "torchao.quantization.quantize_.workflows.float8.float8_packing_format",
     "Float8PackingFormat"),
    ("how a tensor is quantized", "torchao.quantization.quantize_.workflows.float8.float8_tensor", "Float8Tensor "
     "QuantizeTensorToFloat8Kwargs"),
    ("how a tensor is quantized", "torchao.quantization.quantize_.workflows.int8.int8_tensor", "Int8Tensor "
     "QuantizeTensorToInt8Kwargs"),
    ("how a tensor is quantized", "torchao.quantization.quantize_.workflows.intx.intx_packing_format",
     "IntxPackingFormat"),
    ("how a tensor is quantized", "torchao.quantization.quantize_.workflows.intx.intx_unpacked_to_int8_tensor",
     "IntxUnpackedToInt8Tensor IntxUnpackedToInt8TensorActivationQuantization"),
    ("a quantized tensor", "torchao.quantization.quantize_.workflows.nf4.nf4_tensor", "NF4Tensor"),
    ("named tensors", "tensordict._reductions", "_make_td"),
    ("named tensors", "tensordict._td", "TensorDict _SubTensorDict"),
    ("named tensors", "tensordict._lazy", "LazyStackedTensorDict"),
    ("named tensors", "tensordict.tensorclass", "NonTensorData NonTensorStack"),
    ("named tensors", "tensordict.nn.params", "TensorDictParams"),
)  # fmt: skip
