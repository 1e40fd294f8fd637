// Between JSON and values, written as Python's json module writes it.
#include <charconv>
#include <cmath>

#include "data/jinja/value.h"
#include "parallel/base/errors.h"

namespace cadre::data::jinja {
namespace {

constexpr int kMaxDepth = 64;

int32_t source_of(const Value& value) {
  if (const Text* const text = value.text()) return text->marks.empty() ? kNoSource : text->marks[0].source;
  if (const List* const list = value.list()) {
    for (const Value& item : *list)
      if (const int32_t source = source_of(item); source != kNoSource) return source;
  }
  if (const Map* const map = value.map()) {
    for (const auto& [_, item] : map->entries)
      if (const int32_t source = source_of(item); source != kNoSource) return source;
  }
  return kNoSource;
}

void write_text(std::string_view text, std::string& out) {
  out += '"';
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\f':
        out += "\\f";
        break;
      case '\b':
        out += "\\b";
        break;
      default:
        if (static_cast<uint8_t>(c) < 0x20) {
          out += fmt::format("\\u{:04x}", c);
        } else {
          out += c;
        }
    }
  }
  out += '"';
}

struct Writer {
  int indent;
  std::string out = {};

  void new_line(int depth) {
    if (indent < 0) return;
    out += '\n';
    out.append(static_cast<size_t>(indent) * static_cast<size_t>(depth), ' ');
  }
  void separate() { out += indent < 0 ? ", " : ","; }

  void write(const Value& value, int depth) {
    require(out.size() <= kMaxTextBytes, ExitCode::kData, "tojson makes a text of more than {} MiB",
            kMaxTextBytes >> 20);
    if (const Text* const text = value.text()) {
      write_text(text->bytes, out);
    } else if (value.is_none()) {
      out += "null";
    } else if (value.is_bool()) {
      out += value.truth() ? "true" : "false";
    } else if (value.is_float() && !std::isfinite(value.real())) {
      out += std::isnan(value.real()) ? "NaN" : value.real() > 0 ? "Infinity" : "-Infinity";
    } else if (value.is_number()) {
      out += value.str().bytes;
    } else if (const List* const list = value.list()) {
      write_list(*list, depth);
    } else {
      require(value.map() && !value.map()->is_namespace, ExitCode::kData, "tojson of a value of type {}",
              value.type());
      write_map(*value.map(), depth);
    }
  }
  void write_list(const List& list, int depth) {
    out += '[';
    for (size_t i = 0; i < list.size(); ++i) {
      if (i > 0) separate();
      new_line(depth + 1);
      write(list[i], depth + 1);
    }
    if (!list.empty()) new_line(depth);
    out += ']';
  }
  void write_map(const Map& map, int depth) {
    out += '{';
    for (size_t i = 0; i < map.entries.size(); ++i) {
      if (i > 0) separate();
      new_line(depth + 1);
      write_text(map.entries[i].first, out);
      out += ": ";
      write(map.entries[i].second, depth + 1);
    }
    if (!map.entries.empty()) new_line(depth);
    out += '}';
  }
};

}  // namespace

Value from_json(const Json& json, int32_t source, int depth) {
  require(depth <= kMaxDepth, ExitCode::kData, "JSON is nested more than {} levels deep", kMaxDepth);
  switch (json.type()) {
    case Json::value_t::null:
      return None{};
    case Json::value_t::boolean:
      return json.get<bool>();
    case Json::value_t::number_float:
      return json.get<double>();
    case Json::value_t::string: {
      Text text(json.get<std::string>());
      if (source != kNoSource) text.mark_all(source);
      return text;
    }
    case Json::value_t::array: {
      List list;
      for (const Json& item : json) list.push_back(from_json(item, source, depth + 1));
      return list;
    }
    case Json::value_t::object: {
      Map map;
      for (const auto& [key, item] : json.items()) map.set(key, from_json(item, source, depth + 1));
      return map;
    }
    default:
      require(json.is_number_integer(), ExitCode::kData, "JSON of a kind that templates do not know");
      require(!json.is_number_unsigned() || json.get<uint64_t>() <= uint64_t(INT64_MAX), ExitCode::kData,
              "the number {} is too large for a template", json.dump());
      return json.get<int64_t>();
  }
}

Text to_json(const Value& value, int indent) {
  Writer writer{indent};
  writer.write(value, 0);
  Text text(std::move(writer.out));
  if (const int32_t source = source_of(value); source != kNoSource) text.mark_all(source);
  return text;
}

std::string float_text(double number) {
  if (std::isnan(number)) return "nan";
  if (std::isinf(number)) return number > 0 ? "inf" : "-inf";
  char buffer[32];
  const auto written =
      std::to_chars(buffer, buffer + sizeof(buffer), std::abs(number), std::chars_format::scientific);
  const std::string_view text(buffer, static_cast<size_t>(written.ptr - buffer));
  const size_t e = text.find('e');
  const int exponent = std::stoi(std::string(text.substr(e + 1)));
  std::string digits(text.substr(0, 1));
  if (e > 2) digits.append(text.substr(2, e - 2));
  const char* const sign = std::signbit(number) ? "-" : "";
  const auto count = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    if (count > 1) digits.insert(1, 1, '.');
    return fmt::format("{}{}e{}{:02}", sign, digits, exponent < 0 ? '-' : '+', std::abs(exponent));
  }
  if (exponent < 0) return fmt::format("{}0.{:0>{}}", sign, digits, count - exponent - 1);
  if (count <= exponent + 1) return fmt::format("{}{:0<{}}.0", sign, digits, exponent + 1);
  return fmt::format("{}{}.{}", sign, digits.substr(0, size_t(exponent) + 1),
                     digits.substr(size_t(exponent) + 1));
}

}  // namespace cadre::data::jinja
