package ucum

// definition is a unit of the table: value times unit. A base unit has no value.
// metric is set if the unit takes prefixes.
type definition struct {
	value, unit string
	metric      bool
	offset      string // of a special unit
}

var prefixes = map[string]string{ // read only
	"Y": "1e24", "Z": "1e21", "E": "1e18", "P": "1e15", "T": "1e12", "G": "1e9", "M": "1e6", "k": "1e3", "h": "1e2",
	"da": "1e1", "d": "1e-1", "c": "1e-2", "m": "1e-3", "u": "1e-6", "n": "1e-9", "p": "1e-12", "f": "1e-15",
	"a": "1e-18", "z": "1e-21", "y": "1e-24", "Ki": "1024", "Mi": "1048576", "Gi": "1073741824",
	"Ti": "1099511627776",
}

// units holds the units by their case sensitive symbols. The values are those of UCUM
// 2.1.
var units = map[string]definition{ // read only
	// Base units.
	"m": {metric: true}, "s": {metric: true}, "g": {metric: true}, "rad": {metric: true}, "K": {metric: true},
	"C": {metric: true}, "cd": {metric: true},
	// Numbers.
	"10*": {value: "10"}, "10^": {value: "10"}, "%": {value: "1/100"},
	"[pi]":   {value: "3.1415926535897932384626433832795028841971693993751058209749445923"},
	"[ppth]": {value: "1e-3"}, "[ppm]": {value: "1e-6"}, "[ppb]": {value: "1e-9"}, "[pptr]": {value: "1e-12"},
	"mol": {value: "6.02214076e23", metric: true},
	// SI units.
	"sr": {"1", "rad2", true, ""}, "Hz": {"1", "s-1", true, ""}, "N": {"1", "kg.m/s2", true, ""},
	"Pa": {"1", "N/m2", true, ""}, "J": {"1", "N.m", true, ""}, "W": {"1", "J/s", true, ""},
	"A": {"1", "C/s", true, ""}, "V": {"1", "J/C", true, ""}, "F": {"1", "C/V", true, ""},
	"Ohm": {"1", "V/A", true, ""}, "S": {"1", "Ohm-1", true, ""}, "Wb": {"1", "V.s", true, ""},
	"T": {"1", "Wb/m2", true, ""}, "H": {"1", "Wb/A", true, ""}, "lm": {"1", "cd.sr", true, ""},
	"lx": {"1", "lm/m2", true, ""}, "Bq": {"1", "s-1", true, ""}, "Gy": {"1", "J/kg", true, ""},
	"Sv": {"1", "J/kg", true, ""}, "kat": {"1", "mol/s", true, ""},
	"Cel": {"1", "K", true, "273.15"}, "[degF]": {"5/9", "K", false, "459.67"}, "[degR]": {"5/9", "K", false, ""},
	// Other metric units.
	"gon": {"0.9", "deg", false, ""}, "deg": {"1/180", "[pi].rad", false, ""}, "'": {"1/60", "deg", false, ""},
	"''": {"1/60", "'", false, ""}, "l": {"1", "dm3", true, ""}, "L": {"1", "dm3", true, ""},
	"ar": {"100", "m2", true, ""}, "st": {"1", "m3", true, ""}, "t": {"1000", "kg", true, ""},
	"bar": {"100000", "Pa", true, ""}, "u": {"1.66053906660e-24", "g", true, ""},
	"eV": {"1.602176634e-19", "J", true, ""}, "Ao": {"0.1", "nm", false, ""},
	// Time.
	"min": {"60", "s", false, ""}, "h": {"60", "min", false, ""}, "d": {"24", "h", false, ""},
	"wk": {"7", "d", false, ""}, "a": {"365.25", "d", false, ""}, "a_j": {"365.25", "d", false, ""},
	"a_t": {"365.24219", "d", false, ""}, "a_g": {"365.2425", "d", false, ""},
	"mo": {"30.4375", "d", false, ""}, "mo_j": {"30.4375", "d", false, ""}, "mo_g": {"30.436875", "d", false, ""},
	"mo_s": {"29.53059", "d", false, ""},
	// Customary units.
	"[in_i]": {"2.54", "cm", false, ""}, "[ft_i]": {"12", "[in_i]", false, ""}, "[yd_i]": {"3", "[ft_i]", false, ""},
	"[mi_i]": {"5280", "[ft_i]", false, ""}, "[nmi_i]": {"1852", "m", false, ""},
	"[kn_i]": {"1", "[nmi_i]/h", false, ""}, "[sin_i]": {"1", "[in_i]2", false, ""},
	"[sft_i]": {"1", "[ft_i]2", false, ""}, "[cin_i]": {"1", "[in_i]3", false, ""},
	"[gr]": {"64.79891", "mg", false, ""}, "[lb_av]": {"7000", "[gr]", false, ""},
	"[oz_av]": {"1/16", "[lb_av]", false, ""}, "[dr_av]": {"1/16", "[oz_av]", false, ""},
	"[stone_av]": {"14", "[lb_av]", false, ""}, "[ston_av]": {"2000", "[lb_av]", false, ""},
	"[lton_av]": {"2240", "[lb_av]", false, ""}, "[oz_tr]": {"480", "[gr]", false, ""},
	"[car_m]": {"0.2", "g", false, ""}, "[gal_us]": {"231", "[in_i]3", false, ""},
	"[qt_us]": {"1/4", "[gal_us]", false, ""}, "[pt_us]": {"1/2", "[qt_us]", false, ""},
	"[gil_us]": {"1/4", "[pt_us]", false, ""}, "[foz_us]": {"1/4", "[gil_us]", false, ""},
	"[tbs_us]": {"1/2", "[foz_us]", false, ""}, "[tsp_us]": {"1/3", "[tbs_us]", false, ""},
	"[cup_us]": {"16", "[tbs_us]", false, ""}, "[cup_m]": {"240", "mL", false, ""},
	"[foz_m]": {"30", "mL", false, ""}, "[tbs_m]": {"15", "mL", false, ""}, "[tsp_m]": {"5", "mL", false, ""},
	"[g]": {"9.80665", "m/s2", true, ""}, "[lbf_av]": {"1", "[lb_av].[g]", false, ""},
	"[psi]": {"1", "[lbf_av]/[in_i]2", false, ""}, "atm": {"101325", "Pa", false, ""},
	"m[H2O]": {"9.80665", "kPa", true, ""}, "m[Hg]": {"133.3220", "kPa", true, ""},
	"[in_i'H2O]": {"1", "m[H2O].[in_i]/m", false, ""}, "[in_i'Hg]": {"1", "m[Hg].[in_i]/m", false, ""},
	"cal": {"4.184", "J", true, ""}, "cal_th": {"4.184", "J", true, ""}, "cal_IT": {"4.1868", "J", true, ""},
	"[Cal]": {"1", "kcal_th", false, ""}, "dyn": {"1", "g.cm/s2", true, ""}, "erg": {"1", "dyn.cm", true, ""},
	"P": {"1", "dyn.s/cm2", true, ""}, "Ci": {"37000000000", "Bq", true, ""}, "RAD": {"100", "erg/g", true, ""},
	"REM": {"1", "RAD", true, ""}, "[diop]": {"1", "m-1", false, ""}, "[mu_0]": {"1", "[pi].4.10*-7.N/A2", true, ""},
	// Laboratory and clinical units.
	"g%": {"1", "g/dL", true, ""}, "eq": {"1", "mol", true, ""}, "osm": {"1", "mol", true, ""},
	"U": {"1", "umol/min", true, ""}, "[drp]": {"1/20", "mL", false, ""}, "[MET]": {"3.5", "mL/min/kg", false, ""},
	"[HPF]": {value: "1"}, "[LPF]": {value: "100"},
	// Arbitrary units: each is commensurable only with itself.
	"[iU]": {metric: true}, "[IU]": {"1", "[iU]", true, ""}, "[arb'U]": {}, "[USP'U]": {}, "[GPL'U]": {},
	"[MPL'U]": {}, "[APL'U]": {}, "[CFU]": {}, "[PFU]": {}, "[FFU]": {}, "[Amb'a'1'U]": {}, "[BAU]": {}, "[AU]": {},
	"[anti'Xa'U]": {}, "[EU]": {}, "[ELU]": {}, "[D'ag'U]": {}, "[CCID_50]": {}, "[TCID_50]": {}, "[EID_50]": {},
	"[Ch]": {}, "[pH]": {}, "Np": {metric: true}, "B": {metric: true}, "[S]": {}, "[todd'U]": {}, "[knk'U]": {},
	"[mclg'U]": {}, "[bdsk'U]": {}, "[dye'U]": {}, "[smgy'U]": {}, "[hnsf'U]": {}, "bit": {metric: true},
	"By": {"8", "bit", true, ""}, "Bd": {"1", "s-1", true, ""},
}
