// Element types: DLPack's code, bits and lanes, with Triton's and NumPy's names for them.
// BYTES (Triton's TYPE_STRING: a 4-byte little-endian length, then that many bytes, per element) is
// not in DLPack; it has a code of ours.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace tensorferry {

enum class DTypeCode : std::uint8_t {  // the first seven are DLDataTypeCode
  Int = 0,
  UInt = 1,
  Float = 2,
  Opaque = 3,
  BFloat = 4,
  Complex = 5,
  Bool = 6,
  Float8E4M3Fn = 10,  // DLPack 1.1: kDLFloat8_e4m3fn
  Float8E5M2 = 12,    // kDLFloat8_e5m2
  Bytes = 128,        // ours
};

struct DType {
  DTypeCode code = DTypeCode::Float;
  std::uint8_t bits = 32;  // of one lane; 0 for BYTES
  std::uint16_t lanes = 1;

  friend bool operator==(const DType&, const DType&) = default;
  constexpr bool is_bytes() const noexcept { return code == DTypeCode::Bytes; }
};

inline constexpr DType kBool{DTypeCode::Bool, 8};
inline constexpr DType kUint8{DTypeCode::UInt, 8};
inline constexpr DType kUint16{DTypeCode::UInt, 16};
inline constexpr DType kUint32{DTypeCode::UInt, 32};
inline constexpr DType kUint64{DTypeCode::UInt, 64};
inline constexpr DType kInt8{DTypeCode::Int, 8};
inline constexpr DType kInt16{DTypeCode::Int, 16};
inline constexpr DType kInt32{DTypeCode::Int, 32};
inline constexpr DType kInt64{DTypeCode::Int, 64};
inline constexpr DType kFloat16{DTypeCode::Float, 16};
inline constexpr DType kFloat32{DTypeCode::Float, 32};
inline constexpr DType kFloat64{DTypeCode::Float, 64};
inline constexpr DType kBfloat16{DTypeCode::BFloat, 16};
inline constexpr DType kBytes{DTypeCode::Bytes, 0};

// True for the types that may cross: the ones named above and the two float8 types.
bool is_supported(DType dtype) noexcept;
// Bytes of one element; 0 for BYTES, whose elements have no fixed size.
std::size_t element_bytes(DType dtype) noexcept;

// Triton's config name ("TYPE_FP32", "TYPE_STRING"), without the prefix too ("FP32", "BYTES").
std::optional<DType> dtype_from_triton(std::string_view name) noexcept;
// "TYPE_FP32"; float8 has no Triton name and gives "TYPE_INVALID".
std::string_view triton_name(DType dtype) noexcept;
// TRITONSERVER_DataType: 1 (BOOL) .. 14 (BF16); 0 where there is none.
int triton_number(DType dtype) noexcept;
std::optional<DType> dtype_from_triton_number(int number) noexcept;
// NumPy's array-interface type string ("<f4", "|b1", "|O" for BYTES); empty where NumPy has none.
std::string_view numpy_typestr(DType dtype) noexcept;
std::optional<DType> dtype_from_numpy_typestr(std::string_view typestr) noexcept;
// NumPy's type number (NPY_FLOAT32 is 11; LP64), and back; -1 and nothing where there is none.
int numpy_number(DType dtype) noexcept;
std::optional<DType> dtype_from_numpy_number(int number) noexcept;
// For messages: "float32", "bytes", "bfloat16".
std::string to_string(DType dtype);

}  // namespace tensorferry
