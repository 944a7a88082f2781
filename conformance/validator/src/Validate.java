import ca.uhn.fhir.context.FhirContext;
import ca.uhn.fhir.context.support.DefaultProfileValidationSupport;
import ca.uhn.fhir.context.support.IValidationSupport;
import ca.uhn.fhir.validation.FhirValidator;
import ca.uhn.fhir.validation.ResultSeverityEnum;
import ca.uhn.fhir.validation.SingleValidationMessage;
import java.io.BufferedReader;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import org.hl7.fhir.common.hapi.validation.support.CommonCodeSystemsTerminologyService;
import org.hl7.fhir.common.hapi.validation.support.InMemoryTerminologyServerValidationSupport;
import org.hl7.fhir.common.hapi.validation.support.PrePopulatedValidationSupport;
import org.hl7.fhir.common.hapi.validation.support.SnapshotGeneratingValidationSupport;
import org.hl7.fhir.common.hapi.validation.support.UnknownCodeSystemWarningValidationSupport;
import org.hl7.fhir.common.hapi.validation.support.ValidationSupportChain;
import org.hl7.fhir.common.hapi.validation.validator.FhirInstanceValidator;
import org.hl7.fhir.instance.model.api.IBaseResource;

/**
 * Validates resources with the HL7 validator, without a network and without a terminology server.
 *
 * <p>Usage: {@code Validate [--definitions FILE.ndjson]... FILE.ndjson...}
 *
 * <p>It prints one line per error: file and line, location, message, separated by tabs, and at the
 * end the number of resources. It fails only if it cannot read something.
 */
public final class Validate {
  private static final Set<String> DEFINITIONS = Set.of("StructureDefinition", "ValueSet", "CodeSystem");

  private final FhirContext context = FhirContext.forR4();
  private final PrePopulatedValidationSupport definitions = new PrePopulatedValidationSupport(context);

  public static void main(String[] args) throws IOException {
    Validate v = new Validate();
    List<Path> files = new ArrayList<>();
    for (int i = 0; i < args.length; i++) {
      switch (args[i]) {
        case "--definitions" -> v.define(Path.of(args[++i]));
        default -> files.add(Path.of(args[i]));
      }
    }
    FhirValidator validator = v.validator();
    int resources = 0;
    for (Path file : files) {
      resources += check(validator, file);
    }
    System.out.println(resources + " resources");
  }

  /** Reads the definitions in a file with one resource per line. */
  private void define(Path file) throws IOException {
    for (String line : Files.readAllLines(file)) {
      add(line);
    }
  }

  private void add(String json) {
    IBaseResource resource = context.newJsonParser().parseResource(json);
    if (DEFINITIONS.contains(context.getResourceType(resource))) {
      definitions.addResource(resource);
    }
  }

  private FhirValidator validator() {
    InMemoryTerminologyServerValidationSupport terminology = new InMemoryTerminologyServerValidationSupport(context);
    UnknownCodeSystemWarningValidationSupport unknown = new UnknownCodeSystemWarningValidationSupport(context);
    unknown.setNonExistentCodeSystemSeverity(IValidationSupport.IssueSeverity.WARNING);
    FhirInstanceValidator module = new FhirInstanceValidator(new ValidationSupportChain(
        definitions, new DefaultProfileValidationSupport(context), new CommonCodeSystemsTerminologyService(context),
        terminology, new SnapshotGeneratingValidationSupport(context), unknown));
    module.setErrorForUnknownProfiles(true);
    module.setAnyExtensionsAllowed(true);
    module.setAssumeValidRestReferences(true);
    FhirValidator validator = context.newValidator();
    validator.registerValidatorModule(module);
    return validator;
  }

  /** Prints the errors of the resources in a file, one per line of it, and returns their number. */
  private static int check(FhirValidator validator, Path file) throws IOException {
    int number = 0;
    try (BufferedReader lines = Files.newBufferedReader(file)) {
      for (String line = lines.readLine(); line != null; line = lines.readLine()) {
        number++;
        for (SingleValidationMessage m : validator.validateWithResult(line).getMessages()) {
          if (m.getSeverity() == ResultSeverityEnum.ERROR || m.getSeverity() == ResultSeverityEnum.FATAL) {
            System.out.println(file.getFileName() + ":" + number + "\t" + m.getLocationString() + "\t"
                + m.getMessage().replaceAll("\\s+", " "));
          }
        }
      }
    }
    return number;
  }
}
