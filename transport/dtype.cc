#include <tensorferry/transport/dtype.h>

#include <array>

namespace tensorferry {
namespace {

struct Row {
  DType dtype;
  std::string_view triton;
  int number;
  std::string_view numpy;
  std::string_view plain;
  int numpy_number;
};

constexpr std::array<Row, 16> kRows{{
    {kBool, "TYPE_BOOL", 1, "|b1", "bool", 0},
    {kUint8, "TYPE_UINT8", 2, "|u1", "uint8", 2},
    {kUint16, "TYPE_UINT16", 3, "<u2", "uint16", 4},
    {kUint32, "TYPE_UINT32", 4, "<u4", "uint32", 6},
    {kUint64, "TYPE_UINT64", 5, "<u8", "uint64", 8},
    {kInt8, "TYPE_INT8", 6, "|i1", "int8", 1},
    {kInt16, "TYPE_INT16", 7, "<i2", "int16", 3},
    {kInt32, "TYPE_INT32", 8, "<i4", "int32", 5},
    {kInt64, "TYPE_INT64", 9, "<i8", "int64", 7},
    {kFloat16, "TYPE_FP16", 10, "<f2", "float16", 23},
    {kFloat32, "TYPE_FP32", 11, "<f4", "float32", 11},
    {kFloat64, "TYPE_FP64", 12, "<f8", "float64", 12},
    {kBytes, "TYPE_STRING", 13, "|O", "bytes", 17},
    {kBfloat16, "TYPE_BF16", 14, "", "bfloat16", -1},
    {{DTypeCode::Float8E4M3Fn, 8}, "TYPE_INVALID", 0, "", "float8_e4m3fn", -1},
    {{DTypeCode::Float8E5M2, 8}, "TYPE_INVALID", 0, "", "float8_e5m2", -1},
}};

const Row* find(DType dtype) noexcept {
  for (const Row& row : kRows) {
    if (row.dtype == dtype) return &row;
  }
  return nullptr;
}

}  // namespace

bool is_supported(DType dtype) noexcept { return find(dtype) != nullptr; }

std::size_t element_bytes(DType dtype) noexcept {
  return (std::size_t{dtype.bits} * dtype.lanes + 7) / 8;
}

std::optional<DType> dtype_from_triton(std::string_view name) noexcept {
  if (name.starts_with("TYPE_")) name.remove_prefix(5);
  if (name == "BYTES") return kBytes;
  if (name == "INVALID") return std::nullopt;
  for (const Row& row : kRows) {
    if (row.triton.substr(5) == name) return row.dtype;
  }
  return std::nullopt;
}

std::string_view triton_name(DType dtype) noexcept {
  const Row* row = find(dtype);
  return row ? row->triton : "TYPE_INVALID";
}

int triton_number(DType dtype) noexcept {
  const Row* row = find(dtype);
  return row ? row->number : 0;
}

std::optional<DType> dtype_from_triton_number(int number) noexcept {
  if (number <= 0) return std::nullopt;
  for (const Row& row : kRows) {
    if (row.number == number) return row.dtype;
  }
  return std::nullopt;
}

std::string_view numpy_typestr(DType dtype) noexcept {
  const Row* row = find(dtype);
  return row ? row->numpy : "";
}

std::optional<DType> dtype_from_numpy_typestr(std::string_view typestr) noexcept {
  if (typestr.empty()) return std::nullopt;
  for (const Row& row : kRows) {
    if (row.numpy == typestr) return row.dtype;
  }
  return std::nullopt;
}

std::string to_string(DType dtype) {
  if (const Row* row = find(dtype)) return std::string(row->plain);
  return "dtype(code " + std::to_string(static_cast<int>(dtype.code)) + ", " +
         std::to_string(dtype.bits) + " bits, " + std::to_string(dtype.lanes) + " lanes)";
}

int numpy_number(DType dtype) noexcept {
  const Row* row = find(dtype);
  return row ? row->numpy_number : -1;
}

std::optional<DType> dtype_from_numpy_number(int number) noexcept {
  constexpr int kLongLong = 9, kULongLong = 10, kBytesString = 18;  // other names for the same
  if (number == kLongLong) return kInt64;
  if (number == kULongLong) return kUint64;
  if (number == kBytesString) return kBytes;
  for (const Row& row : kRows) {
    if (row.numpy_number == number && number >= 0) return row.dtype;
  }
  return std::nullopt;
}

}  // namespace tensorferry
