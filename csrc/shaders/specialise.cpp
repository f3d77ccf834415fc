#include "shaders/specialise.h"

#include <cstring>
#include <set>
#include <vector>

namespace tmoe {

namespace {

bool is_name(char c) { return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_'; }

std::string trimmed(const std::string& text) {
    const size_t first = text.find_first_not_of(" \t\r");
    if (first == std::string::npos) return {};
    return text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

/** One #if with its branches so far. */
struct Branch {
    bool outer;  ///< whether the lines around it are taken
    bool taken;  ///< whether one of its branches was
    bool now;    ///< whether the lines of the present one are
    bool last;   ///< after #else
    size_t line;
};

class Specialiser {
  public:
    Specialiser(const ShaderTable& table, const Defines& defines, std::string& out) : table_(table), defines_(defines), out_(out) {}

    Status file(const std::string& name, const std::string& from, size_t from_line) {
        const ShaderFile* found = nullptr;
        for (size_t i = 0; i < table_.count && !found; i++)
            if (name == table_.files[i].name) found = &table_.files[i];
        if (!found) return failed(from, from_line, "there is no shader '" + name + "'");
        if (!seen_.insert(name).second) return {};

        std::vector<Branch> open;
        size_t line = 0;
        const char* const end = found->text + found->bytes;
        for (const char* at = found->text; at < end;) {
            const auto* stop = static_cast<const char*>(memchr(at, '\n', static_cast<size_t>(end - at)));
            if (!stop) stop = end;
            line++;
            TMOE_RETURN_IF_ERROR(one_line(name, line, std::string(at, stop), open));
            at = stop + 1;
        }
        return open.empty() ? Status() : failed(name, open.back().line, "#if has no #endif");
    }

  private:
    static Status failed(const std::string& shader, size_t line, const std::string& what) {
        const std::string place = line ? shader + ".wgsl:" + std::to_string(line) : shader;
        return Status(StatusCode::VALIDATION_ERROR, "shader " + place + ": " + what)
            .with("argument", "shader")
            .with("shader", shader)
            .with("line", static_cast<double>(line));
    }

    Status value_of(const std::string& shader, size_t line, const std::string& name, std::string& value) const {
        const auto found = defines_.find(name);
        if (found == defines_.end()) return failed(shader, line, "the define '" + name + "' is missing");
        value = found->second;
        return {};
    }

    /** NAME, !NAME, NAME == value, NAME != value. */
    Status condition(const std::string& shader, size_t line, std::string text, bool& truth) const {
        text = trimmed(text);
        const bool negated = !text.empty() && text[0] == '!';
        if (negated) text = trimmed(text.substr(1));
        size_t length = 0;
        while (length < text.size() && is_name(text[length])) length++;
        const std::string name = text.substr(0, length), rest = trimmed(text.substr(length));
        std::string value;
        if (name.empty()) return failed(shader, line, "a condition begins with a define's name");
        TMOE_RETURN_IF_ERROR(value_of(shader, line, name, value));
        if (rest.empty()) {
            truth = (!value.empty() && value != "0" && value != "false") != negated;
            return {};
        }
        const std::string compare = rest.substr(0, 2);
        if (negated || (compare != "==" && compare != "!=")) return failed(shader, line, "the condition '" + text + "' is not understood");
        truth = (value == trimmed(rest.substr(2))) == (compare == "==");
        return {};
    }

    Status one_line(const std::string& shader, size_t line, const std::string& text, std::vector<Branch>& open) {
        const bool taken = open.empty() || open.back().now;
        const std::string bare = trimmed(text);
        if (bare.empty() || bare[0] != '#') return taken ? plain(shader, line, text) : Status();
        size_t length = 1;
        while (length < bare.size() && is_name(bare[length])) length++;
        const std::string word = bare.substr(1, length - 1), rest = trimmed(bare.substr(length));

        if (word == "include") {
            static const std::string suffix = ".wgsl\"";
            if (rest.size() <= suffix.size() + 1 || rest[0] != '"' || rest.compare(rest.size() - suffix.size(), suffix.size(), suffix) != 0) {
                return failed(shader, line, "#include takes \"name.wgsl\"");
            }
            return taken ? file(rest.substr(1, rest.size() - suffix.size() - 1), shader, line) : Status();
        }
        if (word == "if") {
            bool truth = false;
            if (taken) TMOE_RETURN_IF_ERROR(condition(shader, line, rest, truth));
            open.push_back({taken, truth, truth, false, line});
            return {};
        }
        if (word != "elif" && word != "else" && word != "endif") return failed(shader, line, "#" + word + " is not known");
        if (open.empty()) return failed(shader, line, "#" + word + " has no #if");
        Branch& branch = open.back();
        if (word == "endif") {
            open.pop_back();
            return {};
        }
        if (branch.last) return failed(shader, line, "#" + word + " comes after #else");
        bool truth = branch.outer && !branch.taken;
        if (word == "else") branch.last = true;
        else if (truth) TMOE_RETURN_IF_ERROR(condition(shader, line, rest, truth));
        branch.now = truth;
        branch.taken = branch.taken || truth;
        return {};
    }

    Status plain(const std::string& shader, size_t line, const std::string& text) {
        size_t at = 0;
        for (size_t sign = text.find('$'); sign != std::string::npos; sign = text.find('$', at)) {
            size_t stop = sign + 1;
            while (stop < text.size() && is_name(text[stop])) stop++;
            std::string value;
            TMOE_RETURN_IF_ERROR(value_of(shader, line, text.substr(sign + 1, stop - sign - 1), value));
            out_.append(text, at, sign - at).append(value);
            at = stop;
        }
        out_.append(text, at, std::string::npos).push_back('\n');
        return {};
    }

    const ShaderTable& table_;
    const Defines& defines_;
    std::string& out_;
    std::set<std::string> seen_;
};

}  // namespace

Status specialise(const ShaderTable& table, const std::string& name, const Defines& defines, std::string& out) {
    return Specialiser(table, defines, out).file(name, name, 0);
}

}  // namespace tmoe
