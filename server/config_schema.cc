// Triton's ModelConfig, field by field, in its own order, and what becomes of each.
#include "config_schema.h"

namespace tensorferry::server {
namespace schema {
namespace {

struct Decision {
  Handling handling = Handling::Inherit;
  std::string_view note = {};
};
constexpr Decision honoured(std::string_view note) { return {Handling::Honoured, note}; }
constexpr Decision ignored(std::string_view note) { return {Handling::Ignored, note}; }
constexpr Decision refused(std::string_view note) { return {Handling::Refused, note}; }

constexpr Field one(std::string_view name, Type type, Decision decision = {}) {
  return {name, type, Label::Single, nullptr, nullptr, {}, decision.handling, decision.note};
}
constexpr Field one(std::string_view name, const Message& type, Decision decision = {}) {
  return {name, Type::Message, Label::Single, &type, nullptr, {}, decision.handling, decision.note};
}
constexpr Field one(std::string_view name, const Enum& type, Decision decision = {}) {
  return {name, Type::Enum, Label::Single, nullptr, &type, {}, decision.handling, decision.note};
}
constexpr Field many(std::string_view name, const auto& type, Decision decision = {}) {
  Field field = one(name, type, decision);
  field.label = Label::Repeated;
  return field;
}
constexpr Field map(std::string_view name, const Message& entry, Decision decision = {}) {
  Field field = one(name, entry, decision);
  field.label = Label::Map;
  return field;
}
constexpr Field in_oneof(std::string_view oneof, Field field) {
  field.oneof = oneof;
  return field;
}

constexpr Field kModelVersionPolicyLatestFields[] = {
    one("num_versions", Type::Uint32,
        honoured("more than 1 is a warning: only the latest is served")),
};
constexpr Message kModelVersionPolicyLatest{"ModelVersionPolicy.Latest",
                                            kModelVersionPolicyLatestFields};

constexpr Message kModelVersionPolicyAll{"ModelVersionPolicy.All", {}};

constexpr Field kModelVersionPolicySpecificFields[] = {
    many("versions", Type::Int64, honoured("the highest of them that exists is served")),
};
constexpr Message kModelVersionPolicySpecific{"ModelVersionPolicy.Specific",
                                              kModelVersionPolicySpecificFields};

constexpr Field kModelVersionPolicyFields[] = {
    in_oneof("policy_choice", one("latest", kModelVersionPolicyLatest)),
    in_oneof("policy_choice",
             one("all", kModelVersionPolicyAll, ignored("only the latest version is served"))),
    in_oneof("policy_choice", one("specific", kModelVersionPolicySpecific)),
};
constexpr Message kModelVersionPolicy{"ModelVersionPolicy", kModelVersionPolicyFields};

constexpr EnumValue kDataTypeValues[] = {
    {"TYPE_INVALID", 0}, {"TYPE_BOOL", 1},    {"TYPE_UINT8", 2}, {"TYPE_UINT16", 3},
    {"TYPE_UINT32", 4},  {"TYPE_UINT64", 5},  {"TYPE_INT8", 6},  {"TYPE_INT16", 7},
    {"TYPE_INT32", 8},   {"TYPE_INT64", 9},   {"TYPE_FP16", 10}, {"TYPE_FP32", 11},
    {"TYPE_FP64", 12},   {"TYPE_STRING", 13}, {"TYPE_BF16", 14}};
constexpr Enum kDataType{"DataType", kDataTypeValues};

constexpr EnumValue kModelInputFormatValues[] = {
    {"FORMAT_NONE", 0}, {"FORMAT_NHWC", 1}, {"FORMAT_NCHW", 2}};
constexpr Enum kModelInputFormat{"ModelInput.Format", kModelInputFormatValues};

constexpr Field kModelTensorReshapeFields[] = {
    many("shape", Type::Int64),
};
constexpr Message kModelTensorReshape{"ModelTensorReshape", kModelTensorReshapeFields};

constexpr Field kModelInputFields[] = {
    one("name", Type::String),
    one("data_type", kDataType),
    one("format", kModelInputFormat, honoured("checked (three dims) and passed on to the model")),
    many("dims", Type::Int64),
    one("reshape", kModelTensorReshape,
        refused("the model sees the shape that was sent; give that shape as dims")),
    one("is_shape_tensor", Type::Bool, refused("shape tensors exist for TensorRT only")),
    one("allow_ragged_batch", Type::Bool,
        honoured("requests in a batch may always differ in shape: nothing is concatenated")),
    one("optional", Type::Bool),
    one("is_non_linear_format_io", Type::Bool,
        refused("non-linear formats exist for TensorRT only")),
};
constexpr Message kModelInput{"ModelInput", kModelInputFields};

constexpr Field kModelOutputFields[] = {
    one("name", Type::String),
    one("data_type", kDataType),
    many("dims", Type::Int64),
    one("reshape", kModelTensorReshape,
        refused("the caller sees the shape that the model returns; give that shape as dims")),
    one("label_filename", Type::String,
        ignored("classification by labels belongs to the HTTP and gRPC protocols")),
    one("is_shape_tensor", Type::Bool, refused("shape tensors exist for TensorRT only")),
    one("is_non_linear_format_io", Type::Bool,
        refused("non-linear formats exist for TensorRT only")),
};
constexpr Message kModelOutput{"ModelOutput", kModelOutputFields};

constexpr EnumValue kBatchInputKindValues[] = {{"BATCH_ELEMENT_COUNT", 0},
                                               {"BATCH_ACCUMULATED_ELEMENT_COUNT", 1},
                                               {"BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO", 2},
                                               {"BATCH_MAX_ELEMENT_COUNT_AS_SHAPE", 3},
                                               {"BATCH_ITEM_SHAPE", 4},
                                               {"BATCH_ITEM_SHAPE_FLATTEN", 5}};
constexpr Enum kBatchInputKind{"BatchInput.Kind", kBatchInputKindValues};

constexpr Field kBatchInputFields[] = {
    one("kind", kBatchInputKind),
    many("target_name", Type::String),
    one("data_type", kDataType),
    many("source_input", Type::String),
};
constexpr Message kBatchInput{"BatchInput", kBatchInputFields};

constexpr EnumValue kBatchOutputKindValues[] = {{"BATCH_SCATTER_WITH_INPUT_SHAPE", 0}};
constexpr Enum kBatchOutputKind{"BatchOutput.Kind", kBatchOutputKindValues};

constexpr Field kBatchOutputFields[] = {
    many("target_name", Type::String),
    one("kind", kBatchOutputKind),
    many("source_input", Type::String),
};
constexpr Message kBatchOutput{"BatchOutput", kBatchOutputFields};

constexpr Field kModelOptimizationPolicyGraphFields[] = {
    one("level", Type::Int32),
};
constexpr Message kModelOptimizationPolicyGraph{"ModelOptimizationPolicy.Graph",
                                                kModelOptimizationPolicyGraphFields};

constexpr EnumValue kModelOptimizationPolicyModelPriorityValues[] = {
    {"PRIORITY_DEFAULT", 0}, {"PRIORITY_MAX", 1}, {"PRIORITY_MIN", 2}};
constexpr Enum kModelOptimizationPolicyModelPriority{"ModelOptimizationPolicy.ModelPriority",
                                                     kModelOptimizationPolicyModelPriorityValues};

constexpr Field kModelOptimizationPolicyCudaGraphSpecShapeFields[] = {
    many("dim", Type::Int64),
};
constexpr Message kModelOptimizationPolicyCudaGraphSpecShape{
    "ModelOptimizationPolicy.Cuda.GraphSpec.Shape",
    kModelOptimizationPolicyCudaGraphSpecShapeFields};

constexpr Field kModelOptimizationPolicyCudaGraphSpecInputEntryFields[] = {
    one("key", Type::String),
    one("value", kModelOptimizationPolicyCudaGraphSpecShape),
};
constexpr Message kModelOptimizationPolicyCudaGraphSpecInputEntry{
    "ModelOptimizationPolicy.Cuda.GraphSpec.InputEntry",
    kModelOptimizationPolicyCudaGraphSpecInputEntryFields};

constexpr Field kModelOptimizationPolicyCudaGraphSpecLowerBoundInputEntryFields[] = {
    one("key", Type::String),
    one("value", kModelOptimizationPolicyCudaGraphSpecShape),
};
constexpr Message kModelOptimizationPolicyCudaGraphSpecLowerBoundInputEntry{
    "ModelOptimizationPolicy.Cuda.GraphSpec.LowerBound.InputEntry",
    kModelOptimizationPolicyCudaGraphSpecLowerBoundInputEntryFields};

constexpr Field kModelOptimizationPolicyCudaGraphSpecLowerBoundFields[] = {
    one("batch_size", Type::Int32),
    map("input", kModelOptimizationPolicyCudaGraphSpecLowerBoundInputEntry),
};
constexpr Message kModelOptimizationPolicyCudaGraphSpecLowerBound{
    "ModelOptimizationPolicy.Cuda.GraphSpec.LowerBound",
    kModelOptimizationPolicyCudaGraphSpecLowerBoundFields};

constexpr Field kModelOptimizationPolicyCudaGraphSpecFields[] = {
    one("batch_size", Type::Int32),
    map("input", kModelOptimizationPolicyCudaGraphSpecInputEntry),
    one("graph_lower_bound", kModelOptimizationPolicyCudaGraphSpecLowerBound),
};
constexpr Message kModelOptimizationPolicyCudaGraphSpec{
    "ModelOptimizationPolicy.Cuda.GraphSpec", kModelOptimizationPolicyCudaGraphSpecFields};

constexpr Field kModelOptimizationPolicyCudaFields[] = {
    one("graphs", Type::Bool),
    one("busy_wait_events", Type::Bool),
    many("graph_spec", kModelOptimizationPolicyCudaGraphSpec),
    one("output_copy_stream", Type::Bool),
};
constexpr Message kModelOptimizationPolicyCuda{"ModelOptimizationPolicy.Cuda",
                                               kModelOptimizationPolicyCudaFields};

constexpr Field kModelOptimizationPolicyExecutionAcceleratorsAcceleratorParametersEntryFields[] = {
    one("key", Type::String),
    one("value", Type::String),
};
constexpr Message kModelOptimizationPolicyExecutionAcceleratorsAcceleratorParametersEntry{
    "ModelOptimizationPolicy.ExecutionAccelerators.Accelerator.ParametersEntry",
    kModelOptimizationPolicyExecutionAcceleratorsAcceleratorParametersEntryFields};

constexpr Field kModelOptimizationPolicyExecutionAcceleratorsAcceleratorFields[] = {
    one("name", Type::String),
    map("parameters", kModelOptimizationPolicyExecutionAcceleratorsAcceleratorParametersEntry),
};
constexpr Message kModelOptimizationPolicyExecutionAcceleratorsAccelerator{
    "ModelOptimizationPolicy.ExecutionAccelerators.Accelerator",
    kModelOptimizationPolicyExecutionAcceleratorsAcceleratorFields};

constexpr Field kModelOptimizationPolicyExecutionAcceleratorsFields[] = {
    many("gpu_execution_accelerator", kModelOptimizationPolicyExecutionAcceleratorsAccelerator),
    many("cpu_execution_accelerator", kModelOptimizationPolicyExecutionAcceleratorsAccelerator),
};
constexpr Message kModelOptimizationPolicyExecutionAccelerators{
    "ModelOptimizationPolicy.ExecutionAccelerators",
    kModelOptimizationPolicyExecutionAcceleratorsFields};

constexpr Field kModelOptimizationPolicyPinnedMemoryBufferFields[] = {
    one("enable", Type::Bool),
};
constexpr Message kModelOptimizationPolicyPinnedMemoryBuffer{
    "ModelOptimizationPolicy.PinnedMemoryBuffer", kModelOptimizationPolicyPinnedMemoryBufferFields};

constexpr Field kModelOptimizationPolicyFields[] = {
    one("graph", kModelOptimizationPolicyGraph),
    one("priority", kModelOptimizationPolicyModelPriority),
    one("cuda", kModelOptimizationPolicyCuda),
    one("execution_accelerators", kModelOptimizationPolicyExecutionAccelerators),
    one("input_pinned_memory", kModelOptimizationPolicyPinnedMemoryBuffer),
    one("output_pinned_memory", kModelOptimizationPolicyPinnedMemoryBuffer),
    one("gather_kernel_buffer_threshold", Type::Uint32),
    one("eager_batching", Type::Bool),
};
constexpr Message kModelOptimizationPolicy{"ModelOptimizationPolicy",
                                           kModelOptimizationPolicyFields};

constexpr EnumValue kModelQueuePolicyTimeoutActionValues[] = {{"REJECT", 0}, {"DELAY", 1}};
constexpr Enum kModelQueuePolicyTimeoutAction{"ModelQueuePolicy.TimeoutAction",
                                              kModelQueuePolicyTimeoutActionValues};

constexpr Field kModelQueuePolicyFields[] = {
    one("timeout_action", kModelQueuePolicyTimeoutAction,
        ignored("requests wait as long as their caller does")),
    one("default_timeout_microseconds", Type::Uint64,
        ignored("requests wait as long as their caller does")),
    one("allow_timeout_override", Type::Bool,
        ignored("requests wait as long as their caller does")),
    one("max_queue_size", Type::Uint32,
        honoured("a request beyond it is refused at once; 0: the server's default")),
};
constexpr Message kModelQueuePolicy{"ModelQueuePolicy", kModelQueuePolicyFields};

constexpr Field kModelDynamicBatchingPriorityQueuePolicyEntryFields[] = {
    one("key", Type::Uint64),
    one("value", kModelQueuePolicy),
};
constexpr Message kModelDynamicBatchingPriorityQueuePolicyEntry{
    "ModelDynamicBatching.PriorityQueuePolicyEntry",
    kModelDynamicBatchingPriorityQueuePolicyEntryFields};

constexpr Field kModelDynamicBatchingFields[] = {
    many("preferred_batch_size", Type::Int32),
    one("max_queue_delay_microseconds", Type::Uint64),
    one("preserve_ordering", Type::Bool,
        ignored("each caller gets its own answer as soon as it is there")),
    one("priority_levels", Type::Uint64,
        ignored("there are no priorities: requests are taken in order of arrival")),
    one("default_priority_level", Type::Uint64,
        ignored("there are no priorities: requests are taken in order of arrival")),
    one("default_queue_policy", kModelQueuePolicy, honoured("see its fields")),
    map("priority_queue_policy", kModelDynamicBatchingPriorityQueuePolicyEntry,
        ignored("there are no priorities: requests are taken in order of arrival")),
};
constexpr Message kModelDynamicBatching{"ModelDynamicBatching", kModelDynamicBatchingFields};

constexpr Field kModelSequenceBatchingStrategyDirectFields[] = {
    one("max_queue_delay_microseconds", Type::Uint64),
    one("minimum_slot_utilization", Type::Float),
};
constexpr Message kModelSequenceBatchingStrategyDirect{"ModelSequenceBatching.StrategyDirect",
                                                       kModelSequenceBatchingStrategyDirectFields};

constexpr Field kModelSequenceBatchingStrategyOldestFields[] = {
    one("max_candidate_sequences", Type::Int32),
    many("preferred_batch_size", Type::Int32),
    one("max_queue_delay_microseconds", Type::Uint64),
    one("preserve_ordering", Type::Bool),
};
constexpr Message kModelSequenceBatchingStrategyOldest{"ModelSequenceBatching.StrategyOldest",
                                                       kModelSequenceBatchingStrategyOldestFields};

constexpr EnumValue kModelSequenceBatchingControlKindValues[] = {{"CONTROL_SEQUENCE_START", 0},
                                                                 {"CONTROL_SEQUENCE_READY", 1},
                                                                 {"CONTROL_SEQUENCE_END", 2},
                                                                 {"CONTROL_SEQUENCE_CORRID", 3}};
constexpr Enum kModelSequenceBatchingControlKind{"ModelSequenceBatching.Control.Kind",
                                                 kModelSequenceBatchingControlKindValues};

constexpr Field kModelSequenceBatchingControlFields[] = {
    one("kind", kModelSequenceBatchingControlKind),
    many("int32_false_true", Type::Int32),
    many("fp32_false_true", Type::Float),
    many("bool_false_true", Type::Bool),
    one("data_type", kDataType),
};
constexpr Message kModelSequenceBatchingControl{"ModelSequenceBatching.Control",
                                                kModelSequenceBatchingControlFields};

constexpr Field kModelSequenceBatchingControlInputFields[] = {
    one("name", Type::String),
    many("control", kModelSequenceBatchingControl),
};
constexpr Message kModelSequenceBatchingControlInput{"ModelSequenceBatching.ControlInput",
                                                     kModelSequenceBatchingControlInputFields};

constexpr Field kModelSequenceBatchingInitialStateFields[] = {
    one("data_type", kDataType),
    many("dims", Type::Int64),
    in_oneof("state_data", one("zero_data", Type::Bool)),
    in_oneof("state_data", one("data_file", Type::String)),
    one("name", Type::String),
};
constexpr Message kModelSequenceBatchingInitialState{"ModelSequenceBatching.InitialState",
                                                     kModelSequenceBatchingInitialStateFields};

constexpr Field kModelSequenceBatchingStateFields[] = {
    one("input_name", Type::String),
    one("output_name", Type::String),
    one("data_type", kDataType),
    many("dims", Type::Int64),
    many("initial_state", kModelSequenceBatchingInitialState),
    one("use_same_buffer_for_input_output", Type::Bool),
    one("use_growable_memory", Type::Bool),
};
constexpr Message kModelSequenceBatchingState{"ModelSequenceBatching.State",
                                              kModelSequenceBatchingStateFields};

constexpr Field kModelSequenceBatchingFields[] = {
    in_oneof("strategy_choice", one("direct", kModelSequenceBatchingStrategyDirect)),
    in_oneof("strategy_choice", one("oldest", kModelSequenceBatchingStrategyOldest)),
    one("max_sequence_idle_microseconds", Type::Uint64),
    many("control_input", kModelSequenceBatchingControlInput),
    many("state", kModelSequenceBatchingState),
    one("iterative_sequence", Type::Bool),
};
constexpr Message kModelSequenceBatching{"ModelSequenceBatching", kModelSequenceBatchingFields};

constexpr Field kModelEnsemblingStepInputMapEntryFields[] = {
    one("key", Type::String),
    one("value", Type::String),
};
constexpr Message kModelEnsemblingStepInputMapEntry{"ModelEnsembling.Step.InputMapEntry",
                                                    kModelEnsemblingStepInputMapEntryFields};

constexpr Field kModelEnsemblingStepOutputMapEntryFields[] = {
    one("key", Type::String),
    one("value", Type::String),
};
constexpr Message kModelEnsemblingStepOutputMapEntry{"ModelEnsembling.Step.OutputMapEntry",
                                                     kModelEnsemblingStepOutputMapEntryFields};

constexpr Field kModelEnsemblingStepFields[] = {
    one("model_name", Type::String),
    one("model_version", Type::Int64),
    map("input_map", kModelEnsemblingStepInputMapEntry),
    map("output_map", kModelEnsemblingStepOutputMapEntry),
    one("model_namespace", Type::String),
};
constexpr Message kModelEnsemblingStep{"ModelEnsembling.Step", kModelEnsemblingStepFields};

constexpr Field kModelEnsemblingFields[] = {
    many("step", kModelEnsemblingStep),
    one("max_inflight_requests", Type::Uint32),
};
constexpr Message kModelEnsembling{"ModelEnsembling", kModelEnsemblingFields};

constexpr EnumValue kModelInstanceGroupKindValues[] = {
    {"KIND_AUTO", 0}, {"KIND_GPU", 1}, {"KIND_CPU", 2}, {"KIND_MODEL", 3}};
constexpr Enum kModelInstanceGroupKind{"ModelInstanceGroup.Kind", kModelInstanceGroupKindValues};

constexpr Field kModelRateLimiterResourceFields[] = {
    one("name", Type::String),
    one("global", Type::Bool),
    one("count", Type::Uint32),
};
constexpr Message kModelRateLimiterResource{"ModelRateLimiter.Resource",
                                            kModelRateLimiterResourceFields};

constexpr Field kModelRateLimiterFields[] = {
    many("resources", kModelRateLimiterResource),
    one("priority", Type::Uint32),
};
constexpr Message kModelRateLimiter{"ModelRateLimiter", kModelRateLimiterFields};

constexpr EnumValue kModelInstanceGroupSecondaryDeviceSecondaryDeviceKindValues[] = {
    {"KIND_NVDLA", 0}};
constexpr Enum kModelInstanceGroupSecondaryDeviceSecondaryDeviceKind{
    "ModelInstanceGroup.SecondaryDevice.SecondaryDeviceKind",
    kModelInstanceGroupSecondaryDeviceSecondaryDeviceKindValues};

constexpr Field kModelInstanceGroupSecondaryDeviceFields[] = {
    one("kind", kModelInstanceGroupSecondaryDeviceSecondaryDeviceKind),
    one("device_id", Type::Int64),
};
constexpr Message kModelInstanceGroupSecondaryDevice{"ModelInstanceGroup.SecondaryDevice",
                                                     kModelInstanceGroupSecondaryDeviceFields};

constexpr Field kModelInstanceGroupFields[] = {
    one("name", Type::String, honoured("absent: the model's name and the number of the group")),
    one("kind", kModelInstanceGroupKind,
        honoured(
            "what the model is told; KIND_AUTO is KIND_GPU where gpus are named, else KIND_CPU")),
    one("count", Type::Int32, honoured("per GPU where gpus are named; 0: 1")),
    one("rate_limiter", kModelRateLimiter, ignored("instances run whenever there is work")),
    many(
        "gpus", Type::Int32,
        honoured("each gets count instances; the model places itself by model_instance_device_id")),
    many("secondary_devices", kModelInstanceGroupSecondaryDevice,
         refused("NVDLA devices are used by TensorRT only")),
    many("profile", Type::String, refused("optimization profiles exist for TensorRT only")),
    one("passive", Type::Bool, refused("every instance takes requests")),
    one("host_policy", Type::String, ignored("instances are bound to no NUMA node or CPU")),
};
constexpr Message kModelInstanceGroup{"ModelInstanceGroup", kModelInstanceGroupFields};

constexpr Field kModelConfigCcModelFilenamesEntryFields[] = {
    one("key", Type::String),
    one("value", Type::String),
};
constexpr Message kModelConfigCcModelFilenamesEntry{"ModelConfig.CcModelFilenamesEntry",
                                                    kModelConfigCcModelFilenamesEntryFields};

constexpr Field kModelConfigMetricTagsEntryFields[] = {
    one("key", Type::String),
    one("value", Type::String),
};
constexpr Message kModelConfigMetricTagsEntry{"ModelConfig.MetricTagsEntry",
                                              kModelConfigMetricTagsEntryFields};

constexpr Field kModelParameterFields[] = {
    one("string_value", Type::String),
};
constexpr Message kModelParameter{"ModelParameter", kModelParameterFields};

constexpr Field kModelConfigParametersEntryFields[] = {
    one("key", Type::String),
    one("value", kModelParameter),
};
constexpr Message kModelConfigParametersEntry{"ModelConfig.ParametersEntry",
                                              kModelConfigParametersEntryFields};

constexpr Field kModelWarmupInputFields[] = {
    one("data_type", kDataType),
    many("dims", Type::Int64),
    in_oneof("input_data_type", one("zero_data", Type::Bool)),
    in_oneof("input_data_type", one("random_data", Type::Bool)),
    in_oneof("input_data_type", one("input_data_file", Type::String)),
};
constexpr Message kModelWarmupInput{"ModelWarmup.Input", kModelWarmupInputFields};

constexpr Field kModelWarmupInputsEntryFields[] = {
    one("key", Type::String),
    one("value", kModelWarmupInput),
};
constexpr Message kModelWarmupInputsEntry{"ModelWarmup.InputsEntry", kModelWarmupInputsEntryFields};

constexpr Field kModelWarmupFields[] = {
    one("name", Type::String),
    one("batch_size", Type::Uint32),
    map("inputs", kModelWarmupInputsEntry),
    one("count", Type::Uint32),
};
constexpr Message kModelWarmup{"ModelWarmup", kModelWarmupFields};

constexpr Field kModelOperationsFields[] = {
    many("op_library_filename", Type::String),
};
constexpr Message kModelOperations{"ModelOperations", kModelOperationsFields};

constexpr Field kModelTransactionPolicyFields[] = {
    one("decoupled", Type::Bool,
        refused("models that answer a request any number of times are not served")),
};
constexpr Message kModelTransactionPolicy{"ModelTransactionPolicy", kModelTransactionPolicyFields};

constexpr Field kModelRepositoryAgentsAgentParametersEntryFields[] = {
    one("key", Type::String),
    one("value", Type::String),
};
constexpr Message kModelRepositoryAgentsAgentParametersEntry{
    "ModelRepositoryAgents.Agent.ParametersEntry",
    kModelRepositoryAgentsAgentParametersEntryFields};

constexpr Field kModelRepositoryAgentsAgentFields[] = {
    one("name", Type::String),
    map("parameters", kModelRepositoryAgentsAgentParametersEntry),
};
constexpr Message kModelRepositoryAgentsAgent{"ModelRepositoryAgents.Agent",
                                              kModelRepositoryAgentsAgentFields};

constexpr Field kModelRepositoryAgentsFields[] = {
    many("agents", kModelRepositoryAgentsAgent),
};
constexpr Message kModelRepositoryAgents{"ModelRepositoryAgents", kModelRepositoryAgentsFields};

constexpr Field kModelResponseCacheFields[] = {
    one("enable", Type::Bool),
};
constexpr Message kModelResponseCache{"ModelResponseCache", kModelResponseCacheFields};

constexpr Field kModelMetricsMetricControlMetricIdentifierFields[] = {
    one("family", Type::String),
};
constexpr Message kModelMetricsMetricControlMetricIdentifier{
    "ModelMetrics.MetricControl.MetricIdentifier",
    kModelMetricsMetricControlMetricIdentifierFields};

constexpr Field kModelMetricsMetricControlHistogramOptionsFields[] = {
    many("buckets", Type::Double),
};
constexpr Message kModelMetricsMetricControlHistogramOptions{
    "ModelMetrics.MetricControl.HistogramOptions",
    kModelMetricsMetricControlHistogramOptionsFields};

constexpr Field kModelMetricsMetricControlFields[] = {
    one("metric_identifier", kModelMetricsMetricControlMetricIdentifier),
    in_oneof("metric_options",
             one("histogram_options", kModelMetricsMetricControlHistogramOptions)),
};
constexpr Message kModelMetricsMetricControl{"ModelMetrics.MetricControl",
                                             kModelMetricsMetricControlFields};

constexpr Field kModelMetricsFields[] = {
    many("metric_control", kModelMetricsMetricControl),
};
constexpr Message kModelMetrics{"ModelMetrics", kModelMetricsFields};

constexpr Field kModelConfigFields[] = {
    one("name", Type::String, honoured("must be the name of the model's folder")),
    one("platform", Type::String,
        refused("it names a framework that runs in another backend; for a model.py write backend: "
                "\"python\"")),
    one("backend", Type::String,
        honoured("\"python\" or \"tensorferry\"; absent: \"python\" where the version folder has "
                 "the model file")),
    one("runtime", Type::String,
        ignored("only Triton's python-based backends have a choice of runtime")),
    one("version_policy", kModelVersionPolicy,
        honoured("one version is served: the highest that the policy allows")),
    one("max_batch_size", Type::Int32, honoured("0: requests have no batch dimension")),
    many("input", kModelInput, honoured("what requests are checked against")),
    many("output", kModelOutput, honoured("what requests may ask for")),
    many("batch_input", kBatchInput,
         refused("requests reach the model one by one, never concatenated, so there is nothing to "
                 "compute it from")),
    many("batch_output", kBatchOutput,
         refused("requests reach the model one by one, never concatenated, so there is nothing to "
                 "scatter")),
    one("optimization", kModelOptimizationPolicy,
        ignored("hints to frameworks that a model.py doesn't run in")),
    in_oneof("scheduling_choice",
             one("dynamic_batching", kModelDynamicBatching,
                 honoured("requests that wait are given to one execute() as a list"))),
    in_oneof("scheduling_choice", one("sequence_batching", kModelSequenceBatching,
                                      refused("there is no scheduler for sequences; requests of "
                                              "one sequence could reach different instances"))),
    in_oneof(
        "scheduling_choice",
        one("ensemble_scheduling", kModelEnsembling,
            refused("there is no scheduler for ensembles; call the models one after the other"))),
    many("instance_group", kModelInstanceGroup, honoured("one process per instance")),
    one("default_model_filename", Type::String, honoured("must end with .py; absent: model.py")),
    map("cc_model_filenames", kModelConfigCcModelFilenamesEntry,
        ignored(
            "a model.py doesn't depend on the compute capability; default_model_filename is used")),
    map("metric_tags", kModelConfigMetricTagsEntry,
        ignored("metrics carry model and version only")),
    map("parameters", kModelConfigParametersEntry,
        honoured("those that begin with TENSORFERRY_ are settings of ours; all reach the model")),
    many("model_warmup", kModelWarmup,
         ignored("no warm-up requests are sent; warm up in initialize()")),
    one("model_operations", kModelOperations,
        ignored("operator libraries belong to other frameworks; import them in model.py")),
    one("model_transaction_policy", kModelTransactionPolicy, honoured("see decoupled")),
    one("model_repository_agents", kModelRepositoryAgents,
        refused(
            "agents (checksums, decryption) are not run, so the files would be loaded unchecked")),
    one("response_cache", kModelResponseCache,
        ignored("there is no cache: every request is executed")),
    one("model_metrics", kModelMetrics, ignored("the buckets of our metrics are fixed")),
};
constexpr Message kModelConfig{"ModelConfig", kModelConfigFields};

}  // namespace

const EnumValue* Enum::find(std::string_view wanted) const noexcept {
  for (const EnumValue& value : values) {
    if (value.name == wanted) return &value;
  }
  return nullptr;
}

const EnumValue* Enum::find(std::int64_t number) const noexcept {
  for (const EnumValue& value : values) {
    if (value.number == number) return &value;
  }
  return nullptr;
}

const Field* Message::find(std::string_view wanted) const noexcept {
  for (const Field& field : fields) {
    if (field.name == wanted) return &field;
  }
  return nullptr;
}

}  // namespace schema

const schema::Message& model_config_schema() noexcept { return schema::kModelConfig; }

}  // namespace tensorferry::server
